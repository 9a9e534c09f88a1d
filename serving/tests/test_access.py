"""Who may ask, and settings: off until they are set, refused with a sentence if they are wrong."""
import json, time

import jwt, pytest

from recsys_lib.core import InputError
from serving.app import create_app
from serving.shop.pages import EXPLAINED
from serving.shop.visitor import COOKIE, read

KEY, SECRET = 'a key of sixteen characters', 'a secret of at least thirty-two characters'


def make(bundle, **settings): return create_app(dict(BUNDLE=str(bundle), **settings)).test_client()


def token(secret=SECRET, algorithm='HS256', **claims): return {'Authorization': 'Bearer ' + jwt.encode(dict(sub='shop', exp=time.time() + 60) | claims, secret, algorithm)}


def test_keys_and_tokens(bundle):
    client = make(bundle, API_KEYS=f'{KEY}, another key of that length', JWT_SECRET=SECRET)
    unsigned = {'Authorization': 'Bearer ' + jwt.encode(dict(sub='shop', exp=time.time() + 60), None, 'none')}
    for headers in ({'X-API-Key': KEY}, {'X-API-Key': 'another key of that length'}, token()): assert client.get('/recommend/x', headers=headers).status_code == 200
    for headers in ({}, {'X-API-Key': ''}, {'X-API-Key': KEY[:-1]}, {'X-API-Key': 'ä' * 20}, {'Authorization': KEY}, {'Authorization': 'Bearer x'}, unsigned, token('another secret of thirty-two letters'), token(exp=time.time() - 1),
                    {'Authorization': 'Bearer ' + jwt.encode(dict(sub='shop'), SECRET)}):
        answer = client.get('/recommend/x', headers=headers)
        assert answer.status_code == 401 and json.loads(answer.text)['errors'][0]['field'] == 'X-API-Key' and KEY not in answer.text
    for address in ('/healthz/live', '/healthz/ready', '/openapi.json', '/docs/'): assert client.get(address).status_code == 200
    for address in ('/healthz', '/metrics', '/nope'): assert client.get(address).status_code == 401


def test_profiles_are_closed_without_a_key(bundle, customers):
    address = f'/user_profile/{customers[0]}'
    assert make(bundle).get(address).status_code == 401 and make(bundle).get('/customers').status_code == 401
    keyed = make(bundle, API_KEYS=KEY); assert keyed.get(address, headers={'X-API-Key': KEY}).status_code == 200 and keyed.get('/customers', headers={'X-API-Key': KEY}).status_code == 403
    demo = make(bundle, DEMO=True); assert demo.get(address).json['known'] is True and demo.get('/customers?k=3').status_code == 200


def test_reasons_of_a_customer_are_as_closed_as_the_profile(bundle, customers):
    "They name what was bought. Of somebody who says themselves what they did, they are open; and an answer that was kept for the shop window is not given to others."
    address = f'/recommend/{customers[0]}?explain=true'; client = make(bundle)
    assert client.get(address).status_code == 401 and client.get(address.partition('?')[0]).status_code == client.post('/recommend', json=dict(items=[], explain=True)).status_code == 200
    assert make(bundle, DEMO=True).get(address).json['recommendations'][0]['why']
    keyed = make(bundle, API_KEYS=KEY); assert keyed.get(address, headers={'X-API-Key': KEY}).json['recommendations'][0]['why'] and keyed.get(address).status_code == 401
    article = client.get(address.partition('?')[0]).json['recommendations'][0]['article_id']; assert 'Why this is recommended' in client.get(f'/shop/article/{article}').text  # their own, to a visitor of the shop
    who = read(client.get_cookie(COOKIE).value).visitor; assert client.get(f'/recommend/{who}?k={EXPLAINED}&explain=true').status_code == 401  # the same question, which the shop had answered


def test_rates(bundle):
    client = make(bundle, API_KEYS=f'{KEY},another key of that length', RATE_LIMIT='3/hour'); ask = lambda key: client.get('/recommend/x', headers={'X-API-Key': key}).status_code
    assert [ask(KEY) for _ in range(5)] == [200, 200, 200, 429, 429] and ask('another key of that length') == 200
    refused = client.get('/recommend/x', headers={'X-API-Key': KEY}); assert 0 < int(refused.headers['Retry-After']) <= 3600 and json.loads(refused.text)['status'] == 429
    assert client.get('/healthz/live').status_code == 200


def test_networks_and_proxies(bundle):
    ask = lambda client, address, **headers: client.get('/recommend/x', environ_base=dict(REMOTE_ADDR=address), headers=headers).status_code
    client = make(bundle, NETWORKS='10.0.0.0/8,fd00::/8')
    assert [ask(client, a) for a in ('10.1.2.3', 'fd00::1', '11.0.0.1', '::1', 'nonsense', '')] == [200, 200, 403, 403, 403, 403]
    assert ask(client, '11.0.0.1', **{'X-Forwarded-For': '10.1.2.3'}) == 403
    assert ask(make(bundle, NETWORKS='10.0.0.0/8', PROXIES=1), '192.168.0.1', **{'X-Forwarded-For': '6.6.6.6, 10.1.2.3'}) == 200


def test_pages_of_other_sites(bundle):
    asked = {'Origin': 'https://shop.example', 'Access-Control-Request-Method': 'POST', 'Access-Control-Request-Headers': 'content-type'}
    assert 'Access-Control-Allow-Origin' not in make(bundle).get('/recommend/x', headers=asked).headers
    client = make(bundle, CORS='https://shop.example', API_KEYS=KEY)
    assert client.options('/recommend', headers=asked).headers['Access-Control-Allow-Origin'] == 'https://shop.example'
    assert 'Access-Control-Allow-Origin' not in client.options('/recommend', headers={**asked, 'Origin': 'https://evil.example'}).headers


def test_request_ids(bundle):
    client = make(bundle)
    assert client.get('/healthz', headers={'X-Request-ID': 'mine-1.2'}).headers['X-Request-ID'] == 'mine-1.2'
    for strange in ('', 'x' * 65, 'a b', '<script>'): assert client.get('/healthz', headers={'X-Request-ID': strange}).headers['X-Request-ID'] not in ('', strange)


@pytest.mark.parametrize('setting, value, expected', [
    ('API_KEYS', 'short', 'at least 16'), ('JWT_SECRET', 'short', 'at least 32'), ('ADMIN_KEY', 'short', 'at least 16'), ('RATE_LIMIT', 'often', '100/second'), ('NETWORKS', '10.0.0.0/99', '10.0.0.0/8'),
    ('PROXIES', 'many', 'reverse proxies'), ('CACHE_MB', '-1', 'megabytes'), ('LOG_LEVEL', 'LOUD', 'one of DEBUG'), ('DEMO', 'perhaps', 'true or false'), ('WATCH_SECONDS', '0', 'how often'), ('EVENTS_MB', '0', 'megabytes')])
def test_settings_that_are_wrong(bundle, monkeypatch, setting, value, expected):
    "In the environment and in the file, told with the setting's name and what was expected, but not with a secret's value."
    monkeypatch.setenv(f'LOOKBOOK_{setting}', value)
    with pytest.raises(InputError, match=f'LOOKBOOK_{setting}: expected .*{expected}') as e: make(bundle)
    assert 'short' not in str(e.value)


def test_a_setting_that_is_nearly_one_is_no_setting(bundle, monkeypatch):
    monkeypatch.setenv('LOOKBOOK_API_KEY', KEY)  # the service would be open to everybody
    with pytest.raises(InputError, match='LOOKBOOK_API_KEY: there is no such setting; expected LOOKBOOK_API_KEYS'): make(bundle)


def test_a_file_of_settings(bundle, tmp_path, monkeypatch):
    file = tmp_path / 'lookbook.toml'; monkeypatch.setenv('LOOKBOOK_CONFIG', str(file))
    file.write_text(f'demo = true\napi_keys = ["{KEY}"]\ncache_mb = 3\n')
    client = make(bundle); assert client.get('/recommend/x').status_code == 401 and client.application.config['CACHE_MB'] == 3
    monkeypatch.setenv('LOOKBOOK_CACHE_MB', '4'); assert make(bundle).application.config['CACHE_MB'] == 4
    for text, message in (('demo = ', 'expected TOML'), ('colour = 3', 'colour: there is no such setting'), ('cache_mb = "x"', 'LOOKBOOK_CACHE_MB: expected')):
        file.write_text(text); monkeypatch.delenv('LOOKBOOK_CACHE_MB', raising=False)
        with pytest.raises(InputError, match=message): make(bundle)
    file.unlink()
    with pytest.raises(InputError, match='LOOKBOOK_CONFIG: .*No such file'): make(bundle)
