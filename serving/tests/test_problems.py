"""What is asked wrongly is refused: the status, the field, what was expected; never a page of HTML, never a traceback."""
import gzip, json, logging, shutil

import pytest

from recsys_lib.core import InputError
from serving.app import create_app

ARTICLE = '<an article>'  # replaced by one of the catalogue


def refused(answer, status, field=None, expected=''):
    "The problem in an answer, after checking its form."
    assert answer.status_code == status, answer.text
    assert answer.content_type == 'application/problem+json'
    problem = json.loads(answer.text)
    assert problem['status'] == status and problem['type'] == 'about:blank' and problem['title'] and problem['detail']
    assert '<' not in answer.text and 'Traceback' not in answer.text and 'serving/' not in answer.text
    if field:
        assert field in [e['field'] for e in problem['errors']] and expected in next(e['expected'] for e in problem['errors'] if e['field'] == field)
        assert problem['detail'].startswith(problem['errors'][0]['field'])
    return problem


def nested(depth): return '[' * depth + ']' * depth


@pytest.mark.parametrize('query', ['k=0', 'k=-1', 'k=201', 'k=999999999', 'k=' + '9' * 5000, 'k=1.5', 'k=12.0', 'k=1e1', 'k=abc', 'k=', 'k', 'k=NaN', 'k=inf', 'k=%2B5',
                                   'k=1_0', 'k=%205', 'k=0x5', 'k=%EF%BC%99', 'k=%ff', 'k=%00', 'k=true', 'k=5&k=5'])
@pytest.mark.parametrize('address', ['/recommend/nobody', '/similar_items/' + ARTICLE])
def test_k_in_the_query(client, recommender, address, query):
    query = query.replace('201', str(recommender.retriever.settings.candidates + 1))
    refused(client.get(f"{address.replace(ARTICLE, recommender.article_ids[0])}?{query}"), 422, 'k', 'one value' if '&' in query else 'an integer from 1 to ')


@pytest.mark.parametrize('query, field', [('top=3', 'top'), ('K=3', 'K'), ('k=3&debug=1', 'debug'), ('=3', 'query'), ('%ff=1', '%FF'), ('x' * 3000 + '=1', 'x' * 200)])
def test_unknown_parameters(client, query, field):
    refused(client.get(f'/recommend/nobody?{query}'), 422, field, 'one of k')


def test_no_parameters_where_there_are_none(client): refused(client.post('/recommend?k=3', json=dict(items=[])), 422, 'k', 'no parameters')


@pytest.mark.parametrize('article', ['1', '0', '-1', '108775015', 'x', '%00', '..%5C..', 'NaN', '%F0%9F%91%97'])
def test_an_unknown_article(client, article):
    refused(client.get(f'/similar_items/{article}'), 404, 'article_id', 'an article of the catalogue')


@pytest.mark.parametrize('address, field', [('/recommend/' + 'x' * 257, 'customer_id'), ('/similar_items/' + '1' * 257, 'article_id')])
def test_ids_too_long(client, address, field): refused(client.get(address), 422, field, 'at most 256 characters')


@pytest.mark.parametrize('body, status, field, expected', [
    ('', 400, 'body', 'a JSON object'), ('  \n', 400, 'body', 'a JSON object'), ('{', 400, 'body', 'valid JSON'), ('nope', 400, 'body', 'valid JSON'),
    ('{"items": []}}', 400, 'body', 'valid JSON'), ("{'items': []}", 400, 'body', 'valid JSON'), ('{"items": [], }', 400, 'body', 'valid JSON'),
    (b'\xff\xfe', 400, 'body', 'valid JSON'), (b'{"items": [{"article_id": "\xff"}]}', 400, 'body', 'valid JSON'),
    ('{"items": [{"article_id": "\\ud800"}]}', 400, 'body', 'valid JSON'), (nested(50_000), 400, 'body', 'valid JSON'), ('items=1', 400, 'body', 'valid JSON'),
    ('null', 422, 'body', 'an object'), ('[]', 422, 'body', 'an object'), ('3', 422, 'body', 'an object'), ('"items"', 422, 'body', 'an object'),
    ('NaN', 422, 'body', 'an object'), (nested(50), 422, 'body', 'an object'),
    ('{}', 422, 'items', 'a list of at most 500'), ('{"items": null}', 422, 'items', 'a list'), ('{"items": {}}', 422, 'items', 'a list'),
    ('{"items": "0108775015"}', 422, 'items', 'a list'), ('{"items": NaN}', 422, 'items', 'a list'),
    ('{"items": [3]}', 422, 'items[0]', 'an object'), ('{"items": ["0108775015"]}', 422, 'items[0]', 'an object'), ('{"items": [null]}', 422, 'items[0]', 'an object'),
    ('{"items": [], "customer_id": "x"}', 422, 'customer_id', 'one of k, items, age'), ('{"items": [], "__class__": {}}', 422, '__class__', 'one of'),
    ('{"items": [], "": 1}', 422, 'body', 'one of'),
])
def test_bodies(client, body, status, field, expected):
    refused(client.post('/recommend', data=body, content_type='application/json'), status, field, expected)


@pytest.mark.parametrize('field, value, expected', [(field, value, expected) for field, expected, values in [
    ('k', 'an integer from 1 to', ['0', '-1', '201', '1e9', '12.0', '1.5', '"12"', 'null', 'true', 'NaN', '[]', '9' * 400]),
    ('age', 'a number from 0 to 130', ['-1', '131', 'NaN', 'Infinity', '1e999', '"30"', 'true', '[30]']),
    ('items[0].article_id', 'id of an article', ['null', '108775015', 'true', '""', '[]', '{}', '"%s"' % ('1' * 257)]),
    ('items[0].article_id', 'an article of the catalogue', ['"1"', '"108775015"', '"\\u0000"', '"../../etc/passwd"', '"NaN"', '"👗"']),
    ('items[0].date', 'a date, YYYY-MM-DD', ['"soon"', '""', '"2020-13-01"', '"2020-02-30"', '"20200920"', '"2020-9-2"', '"20.09.2020"', '"2020-09-20T10:00:00"', '"2020-W38-7"',
                                            '"1600000000"', '1600000000', '18525', '"1969-12-31"', '"2100-01-01"', '"0001-01-01"', 'NaN', 'true', '[]']),
    ('items[0].kind', 'one of purchase, view, click, cart', ['"steal"', '""', '"Purchase"', 'null', '0', 'true', '["view"]']),
    ('items[0].price', 'a number from 0', ['-0.01', '1e10', 'NaN', '-Infinity', '1e999', '"0.05"', 'true', '[]']),
    ('items[0].channel', 'an integer from 0', ['-1', '128', '1.5', '2.0', 'null', '"2"', 'NaN', 'true']),
    ('items[0].colour', 'one of article_id, date, kind, price, channel', ['"red"', 'null', 'NaN', '{"a": [1]}'])] for value in values])
def test_fields(client, recommender, field, value, expected):
    "One field wrong at a time, of a request that is right otherwise."
    event = dict(article_id=json.dumps(recommender.article_ids[0])); rest = {}
    value = value.replace('201', str(recommender.retriever.settings.candidates + 1))
    (event if '.' in field else rest)[field.split('.')[-1]] = value
    text = lambda fields: '{%s}' % ', '.join(f'"{k}": {v}' for k, v in fields.items())
    problem = refused(client.post('/recommend', data=text(dict(items=f'[{text(event)}]', **rest)), content_type='application/json'), 422, field, expected)
    assert len(problem['errors']) == 1


def test_all_that_is_wrong_is_listed(client, recommender):
    good = dict(article_id=recommender.article_ids[0])
    problem = refused(client.post('/recommend', json=dict(items=[good, dict(good, kind='x', price=-1), good, {}], k=0)), 422)
    assert [e['field'] for e in problem['errors']] == ['k', 'items[1].kind', 'items[1].price', 'items[3].article_id']
    assert len(refused(client.post('/recommend', json=dict(items=[{}] * 500)), 422)['errors']) == 20  # not an answer longer than the question


@pytest.mark.parametrize('n', [0, 1, 500, 501, 5000])
def test_how_many_items(client, recommender, n):
    answer = client.post('/recommend', json=dict(items=[dict(article_id=recommender.article_ids[0])] * n))
    if n <= 500: assert answer.status_code == 200 and answer.json['known'] == bool(n)
    else: refused(answer, 422, 'items', 'at most 500')


@pytest.mark.parametrize('content_type', [None, 'text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data; boundary=x', 'application/xml', 'json', 'x' * 1000])
def test_content_types(client, content_type):
    refused(client.post('/recommend', data='{"items": []}', content_type=content_type), 415, 'Content-Type', 'application/json')


def test_a_compressed_body_is_not_unpacked(client):
    "So that it cannot unpack to gigabytes."
    body = gzip.compress(b'{"items": []' + b' ' * 50_000_000 + b'}'); assert len(body) < 200_000
    refused(client.post('/recommend', data=body, content_type='application/json', headers={'Content-Encoding': 'gzip'}), 400, 'body', 'valid JSON')


def test_other_names_of_json(client):
    for kind in ('application/json; charset=utf-8', 'application/vnd.api+json'): assert client.post('/recommend', data='{"items": []}', content_type=kind).status_code == 200


@pytest.mark.parametrize('chunked', [False, True])
def test_too_large(client, app, chunked):
    most = app.config['MAX_CONTENT_LENGTH']; post = lambda data: client.post('/recommend', data=data, content_type='application/json', **how(data))
    how = lambda data: dict(headers={'Transfer-Encoding': 'chunked'}, environ_overrides={'wsgi.input_terminated': True, 'CONTENT_LENGTH': ''}) if chunked else {}
    fits = b'{"items": []}'.ljust(most - 1)
    assert post(fits).status_code == 200
    refused(post(fits + b'  '), 413, 'body', f'at most {most:,} bytes')


@pytest.mark.parametrize('address', ['/nope', '/recommend/', '//recommend/a', '/similar_items', '/similar_items/', '/static/x', '/healthz/',
                                     '/items/..%2f..%2fetc%2fpasswd', '/items/..%2f..%2fetc%2fpasswd/image', '/' + 'x' * 5000])
def test_addresses(client, address): refused(client.get(address), 404)


@pytest.mark.parametrize('method, address, allowed', [('GET', '/recommend', {'POST', 'OPTIONS'}), ('DELETE', '/recommend/a', {'GET', 'HEAD', 'OPTIONS'}),
                                                      ('POST', '/recommend/a', {'GET', 'HEAD', 'OPTIONS'}), ('PUT', '/healthz', {'GET', 'HEAD', 'OPTIONS'}),
                                                      ('BREW', '/similar_items/1', {'GET', 'HEAD', 'OPTIONS'})])
def test_methods(client, method, address, allowed):
    answer = client.open(address, method=method)
    assert 'expected' in refused(answer, 405)['detail'] and set(answer.headers['Allow'].split(', ')) == allowed


def test_what_recommender_refuses(client, app, monkeypatch):
    def refuse(*_): raise InputError('shelf 7: expected a shelf')
    monkeypatch.setattr(app.extensions['bundles'].recommender, 'recommend', refuse)
    assert refused(client.get('/recommend/a'), 422)['detail'] == 'shelf 7: expected a shelf'


def test_what_nobody_expected(client, app, monkeypatch, caplog):
    "Is logged, and not told."
    def fail(*_): raise RuntimeError('the secret')
    monkeypatch.setattr(app.extensions['bundles'].recommender, 'recommend', fail)
    with caplog.at_level(logging.ERROR): answer = client.get('/recommend/a')
    assert 'secret' not in str(refused(answer, 500)) and 'the secret' in caplog.text and '/recommend/a' in caplog.text


# -- bundles that cannot be served

def flip(path): data = bytearray(path.read_bytes()); data[len(data) // 2] ^= 1; path.write_bytes(data)


@pytest.mark.parametrize('damage, message', [
    (lambda b: flip(b / 'als_factors.npy'), 'als_factors.npy: altered'), (lambda b: flip(b / 'ranker.onnx'), 'ranker.onnx: altered'),
    (lambda b: (b / 'pool.npy').unlink(), 'pool.npy: missing'), (lambda b: (b / 'manifest.json').unlink(), 'manifest.json is missing'),
    (lambda b: (b / 'manifest.json').write_text('{'), 'manifest.json: not valid JSON'), (lambda b: (b / 'manifest.json').write_text('{"schema": 99}'), 'schema 99'),
    (shutil.rmtree, 'not a bundle')])
def test_a_damaged_bundle_does_not_start(bundle, tmp_path, damage, message):
    copy = tmp_path / 'bundle'; shutil.copytree(bundle, copy); damage(copy)
    with pytest.raises(InputError, match=message): create_app(dict(BUNDLE=str(copy)))


def test_no_bundle_does_not_start(monkeypatch):
    monkeypatch.delenv('LOOKBOOK_BUNDLE', raising=False)
    with pytest.raises(InputError, match='LOOKBOOK_BUNDLE is not set'): create_app()


def test_a_link_to_a_bundle(bundle, tmp_path, monkeypatch):
    (tmp_path / 'current').symlink_to(bundle); monkeypatch.setenv('LOOKBOOK_BUNDLE', str(tmp_path / 'current'))
    assert create_app().test_client().get('/healthz').json['bundle'] == bundle.name
