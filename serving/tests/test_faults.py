"""What goes wrong around the service while it is asked: no 5xx, no wrong answer, nothing lost that was acknowledged."""
import http.client, json, os, re, signal, socket, threading, time, urllib.request
from pathlib import Path

import pytest

from .conftest import Server, listed, pairs
from .test_bundles import another, shelf  # noqa: F401 (a fixture)
from .test_events import RedisServer


class Load:
    "Four clients that ask for distinct customers without a pause, and hold each answer against what the bundle that it names says."
    def __init__(self, server, expected):
        self.server, self.expected, self.wrong, self.answered, self.broken, self.stop = server, expected, [], 0, 0, threading.Event()
        self.threads = [threading.Thread(target=self.ask, args=(n,)) for n in range(4)]

    def __enter__(self):
        for t in self.threads: t.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for t in self.threads: t.join(30)

    def ask(self, n):
        connection = None; customers = list(self.expected)[n::4]
        while not self.stop.is_set():
            for who in customers:
                if self.stop.is_set(): break
                connection = connection or self.server.connect()
                try: status, answer = self.server.ask('GET', f'/recommend/{who}', connection=connection)
                except (OSError, http.client.HTTPException): connection = None; self.broken += 1; time.sleep(.02); continue  # of a worker that was killed: asked again
                if status != 200: self.wrong.append((status, answer))
                elif listed(answer) != self.expected[who] or (answer['bundle'] == 'second') != all(r['prod_name'] == r['prod_name'].upper() for r in answer['recommendations']): self.wrong.append((who, answer))
                self.answered += 1

    def goes_on(self, seconds=60):
        "Waits until more was answered."
        before, end = self.answered, time.monotonic() + seconds
        while self.answered < before + 20: assert time.monotonic() < end, (self.server.log.read_text()[-2000:], self.wrong[:3]); time.sleep(.02)


@pytest.fixture(scope='module')
def expected(recommender, customers):
    ids, scores = recommender.recommend(recommender.customers(customers[:200]))
    return {who: pairs(i, s, recommender) for who, i, s in zip(customers, ids, scores)}


def workers(server): return [int(p) for p in Path(f'/proc/{server.process.pid}/task/{server.process.pid}/children').read_text().split()]


@pytest.mark.parametrize('events', ['embedded', 'redis'])
def test_faults_under_load(light_python, container, shelf, bundle, expected, tmp_path, events):
    "Bundles are switched, a corrupt one is offered, a worker is killed, Redis goes and comes back, clients are slow, connections are dropped."
    redis = None
    if events == 'redis': (tmp_path / 'redis').mkdir(); redis = RedisServer(tmp_path / 'redis'); redis.start()
    settings = dict(LOOKBOOK_STATE=str(tmp_path / 'state'), LOOKBOOK_WATCH_SECONDS='.05', LOOKBOOK_CACHE_MB='0', REDIS_URL=redis.url if redis else '')
    def point(version): (shelf / '.new').symlink_to(version); (shelf / '.new').rename(shelf / 'current')
    with Server(light_python, container, shelf / 'current', tmp_path / 'log', **settings) as server, Load(server, expected) as load:
        load.goes_on()
        for n in range(20 if not redis else 2): point(('second', bundle.name)[n % 2]); time.sleep(.15); load.goes_on()
        point('corrupt'); time.sleep(.3); load.goes_on()
        os.kill(workers(server)[0], signal.SIGKILL); time.sleep(1); load.goes_on()  # is started anew while the link is on a bad bundle
        end = time.monotonic() + 90
        while len(workers(server)) < 2: assert time.monotonic() < end; time.sleep(.1)
        slow = []
        for head in (b'POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"ite', b'GET /recommend/x HTT', b''):
            for _ in range(30): s = socket.create_connection(('127.0.0.1', server.port)); s.sendall(head); slow.append(s)
        load.goes_on()
        for _ in range(10_000 if not redis else 100): socket.create_connection(('127.0.0.1', server.port)).close()
        load.goes_on()
        if redis: redis.stop(); load.goes_on(); assert server.ask('POST', '/events', dict(events=[dict(customer_id='x', article_id=next(iter(expected.values()))[0][0], kind='view')]))[0] == 503; redis.start(); load.goes_on()
        for s in slow: s.close()
        point(bundle.name); load.goes_on()
        counted = urllib.request.urlopen(f'http://127.0.0.1:{server.port}/metrics').read().decode()
    visitors, batches = (float(re.search(rf'^lookbook_batch_visitors_{what} (\S+)', counted, re.M)[1]) for what in ('sum', 'count'))
    assert visitors > batches > 0  # some of these answers were worked out together, and are right all the same
    if redis: redis.stop()
    assert load.wrong == [] and load.answered > 200 and load.broken <= 8, (load.answered, load.broken)
    log = [json.loads(line) for line in (tmp_path / 'log').read_text().splitlines() if line.startswith('{')]
    events = [entry['event'] for entry in log]; assert events.count('bundle switched') >= (20 if not redis else 2) and 'bundle refused' in events and not [e for e in log if 'Traceback' in str(e)]


def test_acknowledged_events_outlive_a_kill(light_python, container, bundle, recommender, tmp_path):
    "The service is killed, all of it, while visitors tell what they do; a new one knows whatever was acknowledged."
    settings = dict(LOOKBOOK_STATE=str(tmp_path / 'state'), LOOKBOOK_DEMO='1'); acknowledged = []; asking = threading.Event()
    with Server(light_python, container, bundle, tmp_path / 'log', **settings) as server:
        def tell(t):
            for n in range(10_000):
                event = dict(customer_id=f'visitor-{t}-{n}', article_id=recommender.article_ids[n % 50], kind='view')
                try: status, _ = server.ask('POST', '/events', dict(events=[event]))
                except (OSError, http.client.HTTPException, ValueError): return
                assert status == 202; acknowledged.append(event)
                if len(acknowledged) > 50: asking.set()
        threads = [threading.Thread(target=tell, args=(t,)) for t in range(4)]
        for t in threads: t.start()
        assert asking.wait(30); os.killpg(server.process.pid, signal.SIGKILL)
        for t in threads: t.join(30)
    with Server(light_python, container, bundle, tmp_path / 'log', **settings) as server:
        for event in acknowledged:
            status, profile = server.ask('GET', f"/user_profile/{event['customer_id']}")
            assert status == 200 and [h['article_id'] for h in profile['history']] == [event['article_id']]
