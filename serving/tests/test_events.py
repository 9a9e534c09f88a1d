"""What visitors do is kept before it is acknowledged, and is part of their next answer: in SQLite, and in a real Redis."""
import datetime, json, multiprocessing, os, shutil, subprocess, time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest

from recsys_lib.core import to_date
from serving.app import create_app
from serving.events import KEPT, Embedded, InRedis

from .conftest import free_port, listed, pairs


class RedisServer:
    "A Redis of this test's own, which keeps what it acknowledged."
    def __init__(self, folder):
        assert shutil.which('redis-server'), 'redis-server is missing: apt-get install redis-server (`make test` does it where it may)'
        self.folder, self.port = folder, free_port(); self.url = f'redis://127.0.0.1:{self.port}/0'; self.process = None

    def start(self):
        import redis
        self.process = subprocess.Popen(['redis-server', '--port', str(self.port), '--dir', str(self.folder), '--appendonly', 'yes', '--appendfsync', 'always', '--save', ''], stdout=subprocess.DEVNULL)
        end = time.monotonic() + 60
        while True:
            try: return redis.Redis(port=self.port).ping()
            except redis.RedisError: assert time.monotonic() < end; time.sleep(.05)

    def stop(self): self.process.kill(); self.process.wait(10)


@pytest.fixture(scope='module')
def redis_server(tmp_path_factory):
    server = RedisServer(tmp_path_factory.mktemp('redis')); server.start()
    yield server
    server.stop()


@pytest.fixture(params=['embedded', 'redis'])
def store(request, tmp_path):
    if request.param == 'embedded': return Embedded(tmp_path / 'events.sqlite', 64)
    return InRedis(request.getfixturevalue('redis_server').url)


def event(n): return dict(article_id=str(n), kind='view', date='2020-09-20', price=None, channel=2)


def test_a_store_gives_back_what_it_was_given(store):
    "Per visitor and in order, the newest so many; the stamp changes with each."
    who, other = f'Ünï {os.urandom(4).hex()}', f'other {os.urandom(4).hex()}'
    assert store.of(who) == [] and store.stamp(who) == 0
    store.append([(who, event(0)), (other, event(1)), (who, event(2))])
    assert store.of(who) == [event(0), event(2)] and store.of(other) == [event(1)]
    stamps = [store.stamp(who)]
    for n in range(3, 3 + KEPT): store.append([(who, event(n))]); stamps.append(store.stamp(who))
    assert store.of(who) == [event(n) for n in range(3, 3 + KEPT)] and store.of(other) == [event(1)]
    assert len(set(stamps)) == len(stamps) and 0 not in stamps


def test_many_at_once(store):
    "What eight threads append is all there."
    def several(t):
        for n in range(20): store.append([(f'{tag}', event(f'{t}-{n}')), (f'{tag}-{t}', event(n))])
    tag = os.urandom(4).hex()
    with ThreadPoolExecutor(8) as threads: list(threads.map(several, range(8)))
    assert sorted(e['article_id'] for e in store.of(tag)) == sorted(f'{t}-{n}' for t in range(8) for n in range(20))
    assert all(store.of(f'{tag}-{t}') == [event(n) for n in range(20)] for t in range(8))


@pytest.fixture(params=['embedded', 'redis'])
def service(request, bundle, tmp_path):
    return create_app(dict(BUNDLE=str(bundle), STATE=str(tmp_path), DEMO=True, REDIS_URL=request.getfixturevalue('redis_server').url if request.param == 'redis' else ''))


def test_the_next_answer_reflects_an_event(service, recommender, customers):
    "It is `Recommender`'s for the history with the event at its end, for a customer and for a visitor nobody knew; kept answers do not stand in the way."
    client = service.test_client(); some = [recommender.article_ids[i] for i in (3, 14, 1)]
    for who in (customers[0], f'visitor-{os.urandom(4).hex()}'):
        before = client.get(f'/recommend/{who}').json; done = []
        assert client.get(f'/recommend/{who}').json == before
        for article, kind in zip(some, ('click', 'cart', 'purchase')):
            told = client.post('/events', json=dict(events=[dict(customer_id=who, article_id=article, kind=kind)]))
            assert told.status_code == 202 and told.json == dict(accepted=1)
            done.append(dict(article_id=article, kind=kind, date=to_date(recommender.asof)))
            ids, scores = recommender.recommend(recommender.customers([who], events=[done])); answer = client.get(f'/recommend/{who}').json
            assert listed(answer) == pairs(ids[0], scores[0], recommender) and answer['known'] is True
            profile = client.get(f'/user_profile/{who}').json
            assert [h['article_id'] for h in profile['history'][:len(done)]] == [d['article_id'] for d in done[::-1]] and profile['history'][0]['kind'] == dict(click='view').get(kind, kind)
        assert listed(client.get(f'/recommend/{who}').json) != listed(before)


def test_what_was_taken_out_of_the_cart_was_never_in_it(service, recommender):
    client = service.test_client(); who = f'away-{os.urandom(4).hex()}'; first, other = (r['article_id'] for r in client.get(f'/recommend/{who}?k=2').json['recommendations'])
    def told(article, kind): assert client.post('/events', json=dict(events=[dict(customer_id=who, article_id=article, kind=kind)])).status_code == 202; return client.get(f'/recommend/{who}').json
    before = told(other, 'purchase'); there = first in [i for i, _ in listed(before)]
    assert there and first not in [i for i, _ in listed(told(first, 'cart'))] and listed(told(first, 'remove_from_cart')) == listed(before)
    assert [h['kind'] for h in client.get(f'/user_profile/{who}').json['history']] == ['purchase']


def test_an_id_may_have_a_slash(service, recommender):
    client = service.test_client(); who = f'a/b/{os.urandom(4).hex()}'
    assert client.post('/events', json=dict(events=[dict(customer_id=who, article_id=recommender.article_ids[3], kind='purchase')])).status_code == 202
    answer = client.get('/recommend/' + quote(who, safe='')).json; assert answer['customer_id'] == who and answer['known'] is True
    assert client.get('/user_profile/' + quote(who, safe='')).json['history'][0]['article_id'] == recommender.article_ids[3] and client.get('/items/0123%2F456').status_code == 404


def test_events_that_are_refused(service, recommender):
    "With the field; and nothing of a request is kept if a part of it is wrong."
    client = service.test_client(); who = f'refused-{os.urandom(4).hex()}'; good = dict(customer_id=who, article_id=recommender.article_ids[0], kind='view')
    for change, field in ((dict(article_id='x'), 'events[1].article_id'), (dict(kind='steal'), 'events[1].kind'), (dict(price=-1), 'events[1].price'), (dict(customer_id=''), 'events[1].customer_id'),
                          (dict(customer_id='x' * 257), 'events[1].customer_id'), (dict(date='soon'), 'events[1].date'), (dict(date=(datetime.date.today() + datetime.timedelta(2)).isoformat()), 'events[1].date'), (dict(date='1969-12-31'), 'events[1].date'), (dict(channel=200), 'events[1].channel'), (dict(more=1), 'events[1].more')):
        answer = client.post('/events', json=dict(events=[good, {**good, **change}]))
        assert answer.status_code == 422 and [e['field'] for e in json.loads(answer.text)['errors']] == [field]
    for body in (dict(events=[]), dict(events=[good] * 1001), dict(), dict(events=good)): assert client.post('/events', json=body).status_code == 422
    assert client.get(f'/recommend/{who}').json['known'] is False


def test_a_full_store_says_so(bundle, recommender, tmp_path):
    "507 and nothing acknowledged; what was acknowledged is there, and recommendations go on."
    app = create_app(dict(BUNDLE=str(bundle), STATE=str(tmp_path), EVENTS_MB=1)); client = app.test_client(); accepted = []
    for n in range(200):
        batch = [dict(customer_id=f'c{n}', article_id=recommender.article_ids[i % 50], kind='view') for i in range(200)]
        answer = client.post('/events', json=dict(events=batch))
        if answer.status_code == 202: accepted.append(n)
        else: break
    assert answer.status_code == 507 and answer.content_type == 'application/problem+json' and 0 < len(accepted) < 200
    for who in (f'c{accepted[0]}', f'c{accepted[-1]}'): assert len(app.extensions['events'].store.of(who)) == 200
    assert app.extensions['events'].store.of(f'c{n}') == [] and client.get(f'/recommend/c{n}').status_code == 200


def test_redis_that_is_away(bundle, recommender, tmp_path):
    "No event is acknowledged, answers say that events are missing, and are right again when it is back."
    (tmp_path / 'redis').mkdir(); server = RedisServer(tmp_path / 'redis'); server.start()
    client = create_app(dict(BUNDLE=str(bundle), STATE=str(tmp_path), REDIS_URL=server.url)).test_client()
    tell = lambda n: client.post('/events', json=dict(events=[dict(customer_id='somebody', article_id=recommender.article_ids[n], kind='cart')]))
    assert tell(3).status_code == 202; before = client.get('/recommend/somebody').json
    assert before['known'] is True and 'events' not in before
    server.stop()
    assert tell(4).status_code == 503
    for _ in range(3): answer = client.get('/recommend/somebody'); assert answer.status_code == 200 and answer.json['events'] == 'unavailable' and answer.json['recommendations']
    server.start(); end = time.monotonic() + 60
    while (answer := client.get('/recommend/somebody').json) != before: assert time.monotonic() < end and answer['events'] == 'unavailable'; time.sleep(.1)
    assert tell(5).status_code == 202 and client.get('/recommend/somebody').json != before
    server.stop()


def keep_telling(path, told):
    store = Embedded(path, 64); n = 0
    while True: store.append([('somebody', event(n))]); told.send(n); n += 1


def test_nothing_acknowledged_is_lost_when_the_process_is_killed(tmp_path):
    "Five kills at moments of their own."
    for round in range(5):
        path = tmp_path / f'{round}.sqlite'; ours, theirs = multiprocessing.Pipe(); process = multiprocessing.get_context('spawn').Process(target=keep_telling, args=(path, theirs)); process.start(); theirs.close()
        acknowledged = [ours.recv()]; time.sleep(.05 * round); process.kill(); process.join()
        try:
            while True: acknowledged.append(ours.recv())
        except EOFError: pass
        kept = [int(e['article_id']) for e in Embedded(path, 64).of('somebody')]
        assert kept[:1] in ([0], [len(kept) and kept[0]]) and set(acknowledged[-KEPT + 1:]) <= set(kept) and len(kept) - len(acknowledged[-KEPT:]) in (0, 1)


def test_a_store_that_cannot_be_opened(bundle, tmp_path):
    from recsys_lib.core import InputError
    (tmp_path / 'events.sqlite').write_bytes(b'no database' * 100)
    with pytest.raises(InputError, match='LOOKBOOK_STATE'): create_app(dict(BUNDLE=str(bundle), STATE=str(tmp_path)))
    with pytest.raises(InputError, match='REDIS_URL'): create_app(dict(BUNDLE=str(bundle), REDIS_URL='nonsense'))
