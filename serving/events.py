"""What visitors do: kept before it is acknowledged, and part of their next answer. In SQLite in the state folder, or in Redis."""
import json, logging, sqlite3, threading, time
from pathlib import Path
from typing import Literal

from flask import Blueprint, current_app, g
from pydantic import BaseModel, Field

from recsys_lib.bundle import KINDS
from recsys_lib.core import InputError, to_date

from .bundles import recommender
from .contract import route
from .problems import Asked, Refused, error
from .recommendations import DAY, Day

bp = Blueprint('events', __name__)
log = logging.getLogger('lookbook.events')
KEPT = 500  # of a visitor, the newest; more than any history is long
MOST = 1000  # in one request
REST = 1.  # seconds for which a store that failed is not asked again


class Unkept(Exception):
    "Events could not be kept; none of them is acknowledged."
    def __init__(self, code: int, why: str): self.code, self.why = code, why


class Embedded:
    "Events in an SQLite file that the workers share. A commit is on the disk before it is acknowledged."
    def __init__(self,
        path: Path,
        megabytes: int,  # that the file may take
    ):
        self.path, self.most, self.local = str(path), megabytes, threading.local()
        try: self.connection()
        except sqlite3.Error as e: raise InputError(f'LOOKBOOK_STATE: {path}: {e}') from None

    def connection(self) -> sqlite3.Connection:
        "A thread's own."
        if not hasattr(self.local, 'connection'):
            c = sqlite3.connect(self.path, timeout=2, isolation_level=None)
            c.execute('PRAGMA journal_mode=WAL'); c.execute('PRAGMA synchronous=FULL')
            c.execute(f"PRAGMA max_page_count={self.most * 2 ** 20 // c.execute('PRAGMA page_size').fetchone()[0]}")
            c.execute('CREATE TABLE IF NOT EXISTS events (id INTEGER PRIMARY KEY AUTOINCREMENT, customer TEXT NOT NULL, event TEXT NOT NULL)')
            c.execute('CREATE INDEX IF NOT EXISTS by_customer ON events (customer, id)')
            self.local.connection = c
        return self.local.connection

    def append(self, events: list):
        "Keep (customer, event) pairs, all or none. Raises `Unkept`."
        try:
            c = self.connection(); c.execute('BEGIN IMMEDIATE')
            try:
                c.executemany('INSERT INTO events (customer, event) VALUES (?, ?)', [(who, json.dumps(event)) for who, event in events])
                for who in {who for who, _ in events}:
                    c.execute('DELETE FROM events WHERE customer = ?1 AND id <= (SELECT id FROM events WHERE customer = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)', (who, KEPT))
                c.execute('COMMIT')
            except BaseException:
                if c.in_transaction: c.execute('ROLLBACK')
                raise
        except sqlite3.OperationalError as e:
            log.error('events not kept', extra=dict(why=str(e)))
            raise Unkept(507 if 'full' in str(e) else 503, str(e)) from e

    def stamp(self, customer: str) -> int:
        "Changes with each event of a customer; 0 for none. Raises `Unkept`."
        return self.ask('SELECT max(id) FROM events WHERE customer = ?', customer)[0][0] or 0

    def of(self, customer: str) -> list:
        "What a customer did, oldest first. Raises `Unkept`."
        return [json.loads(event) for event, in self.ask('SELECT event FROM events WHERE customer = ? ORDER BY id', customer)]

    def ask(self, question, customer):
        try: return self.connection().execute(question, (customer,)).fetchall()
        except sqlite3.Error as e: raise Unkept(503, str(e)) from e


class InRedis:
    "Events in Redis: a list and a counter a customer. What Redis keeps over its own end is told to Redis (appendonly)."
    def __init__(self, url: str):
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
        self.error = redis.RedisError
        try: self.redis = redis.Redis.from_url(url, socket_timeout=.5, socket_connect_timeout=.25, decode_responses=True, retry=Retry(NoBackoff(), 1))
        except ValueError as e: raise InputError(f'REDIS_URL: expected redis://host:port/0 ({e})') from None
        self.until = 0.

    def ask(self, *commands):
        "Send commands as one transaction. Raises `Unkept`; a server that is away is not asked again for a moment, so that nobody waits for it."
        if time.monotonic() < self.until: raise Unkept(503, 'Redis is away')
        try:
            with self.redis.pipeline(transaction=len(commands) > 1) as p:
                for command in commands: p.execute_command(*command)
                return p.execute()
        except self.error as e:
            full = 'OOM' in str(e) or 'MISCONF' in str(e)  # its memory, or its disk
            if not full: self.until = time.monotonic() + REST
            log.error('redis', extra=dict(why=str(e)))
            raise Unkept(507 if full else 503, str(e)) from e

    def append(self, events: list):
        theirs = {}
        for who, event in events: theirs.setdefault(who, []).append(json.dumps(event))
        self.ask(*(c for who, texts in theirs.items() for c in (('RPUSH', f'lookbook:events:{who}', *texts), ('LTRIM', f'lookbook:events:{who}', -KEPT, -1), ('INCR', f'lookbook:stamp:{who}'))))

    def stamp(self, customer: str) -> int: return int(self.ask(('GET', f'lookbook:stamp:{customer}'))[0] or 0)

    def of(self, customer: str) -> list: return [json.loads(event) for event in self.ask(('LRANGE', f'lookbook:events:{customer}', 0, -1))[0]]


class Events:
    "The store, as the other routes ask it: it never makes an answer fail. What cannot be read is missing, and the answer says so."
    def __init__(self, store): self.store = store

    def stamp(self, customer: str) -> 'int | None':
        "Asked once a request; None if the store is away."
        found = g.setdefault('stamps', {})
        if customer not in found:
            try: found[customer] = self.store.stamp(customer)
            except Unkept: found[customer] = None
        return found[customer]

    def of(self, customer: str) -> list:
        stamp = self.stamp(customer)
        try:
            if stamp is not None: return self.store.of(customer) if stamp else []
        except Unkept: pass
        g.unsure = True
        return []


# -- what may be told, and what is answered

class Told(Asked):
    "Something that a visitor did."
    customer_id: str = Field(min_length=1, max_length=256, description='the id of a customer or of a visitor, at most 256 characters')
    article_id: str = Field(min_length=1, max_length=256, description='the id of an article, at most 256 characters')
    kind: Literal[tuple(KINDS)] = Field(description=f"one of {', '.join(KINDS)}")
    date: Day | None = Field(None, description=DAY)
    price: float | None = Field(None, ge=0, le=1e9, description='a number from 0 to 1e9, in the unit of the data')
    channel: int = Field(2, ge=0, le=127, description='an integer from 0 to 127, as in the data')


class TellEvents(Asked):
    events: list[Told] = Field(min_length=1, max_length=MOST, description=f'a list of 1 to {MOST:,} objects, what visitors did, the latest last')


class Accepted(BaseModel):
    accepted: int


@route(bp, 'POST', '/events', body=TellEvents, answer=Accepted, status=202, refuses=(503, 507))
def tell(said):
    "Keep what visitors did. All of it is kept when this answers 202, none of it otherwise; the next answer to these visitors reflects it."
    asked = recommender()
    unknown = [n for n, event in enumerate(said.events) if asked.item_index(event.article_id) < 0]
    if unknown: raise Refused(422, *(error('body', f'events[{n}].article_id', 'an article of the catalogue') for n in unknown))
    kept = [(e.customer_id, dict(article_id=e.article_id, kind=e.kind, date=(e.date.isoformat() if e.date else to_date(asked.asof)), price=e.price, channel=e.channel)) for e in said.events]
    try: current_app.extensions['events'].store.append(kept)
    except Unkept as e: raise Refused(e.code, detail=f"events were not kept, none of them: {'there is no room left' if e.code == 507 else 'their store is away'}; send them again later", again=1) from None
    return dict(accepted=len(kept))
