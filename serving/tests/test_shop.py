"""The shop window without a browser: what it asks, what it keeps, whom it lets change something, what it does where something is missing."""
import base64, json, re
from types import SimpleNamespace

import pytest
from PIL import Image

from recsys_lib.bundle import Recommender
from serving.app import create_app
from serving.shop import looks, pages, safety
from serving.shop.visitor import CART, COOKIE, LONGEST, Visitor, changed, read

from .test_search import encoded, form as multipart, picture

OURS = {'Sec-Fetch-Site': 'same-origin'}
HOSTILE = '<script>alert(1)</script>"\'><img src=x onerror=alert(1)>{{7*7}}'


@pytest.fixture(scope='module')
def images(recommender, tmp_path_factory):
    "Pictures of every second article."
    folder = tmp_path_factory.mktemp('images')
    for i in range(0, len(recommender.article_ids), 2):
        path = folder / recommender.article_ids[i][:3] / f'{recommender.article_ids[i]}.jpg'; path.parent.mkdir(exist_ok=True)
        if i < 40: Image.new('RGB', (128, 128), 'navy').save(path)
    return folder


@pytest.fixture(scope='module')
def shop(bundle, images): return create_app(dict(BUNDLE=str(bundle), IMAGES=str(images), DEMO=True))


@pytest.fixture
def own_shop(bundle, images):
    "One whose bundle a test may spoil."
    return create_app(dict(BUNDLE=str(bundle), IMAGES=str(images), DEMO=True))


@pytest.fixture
def browser(shop): return shop.test_client()


def state(client): return read(client.get_cookie(COOKIE).value)
def post(client, address, **how): return client.post(address, headers=OURS | how.pop('headers', {}), **how)
def articles(text): return re.findall(r'href="/shop/article/([^"]+)"', text)
def rail(text, name): return articles(found[1]) if (found := re.search(rf'id="{name}" tabindex.*?>(.*?)</section>', text, re.S)) else None
def everywhere(client, article): return [client.get(a, headers=OURS) for a in ('/', f'/shop/article/{article}', '/shop/search?q=dress', '/shop/search', '/shop/preferences', '/shop/cart', '/shop/visitor', '/shop/nothing')]


# -- what it asks

def test_an_articles_number_is_looked_up_and_not_searched_for(browser, recommender):
    number = recommender.article_ids[3]; answer = browser.get('/shop/search', query_string=dict(q=f' {number} '))
    assert answer.status_code == 302 and answer.location == f'/shop/article/{number}' and browser.get('/shop/search', query_string=dict(q=number[:-1])).status_code == 200
    assert browser.get('/shop/search', query_string=dict(q='no/such thing?')).status_code == 200


def test_it_asks_the_public_api_alone(browser, recommender, monkeypatch):
    "Each page asks only routes that the OpenAPI document lists, and few of them."
    asked = []; ask = pages.ask
    monkeypatch.setattr(pages, 'ask', lambda method, *address, **how: asked.append((method, *address)) or ask(method, *address, **how))
    listed = [(m.upper(), re.compile(re.sub(r'\\{[a-z_]+\\}|\{[a-z_]+\}', '[^/]+', path) + '$')) for path, methods in browser.get('/openapi.json').json['paths'].items() for m in methods]
    customer = browser.get('/customers?k=1').json['customers'][0]
    for who in (None, customer):
        if who: post(browser, '/shop/visitor', data=dict(customer=who))
        for address in ('/', f'/shop/article/{recommender.article_ids[0]}', '/shop/search?q=dress', '/shop/preferences', '/shop/cart', '/shop/visitor'):
            asked.clear(); answer = browser.get(address, headers=OURS)
            assert answer.status_code == 200 and 0 < len(asked) <= 8, (address, asked)
            for method, *parts in asked: assert any(method == m and path.match('/' + '/'.join(parts)) for m, path in listed), parts


def test_what_a_page_shows_is_what_the_api_says(browser, recommender):
    customer = browser.get('/customers?k=2').json['customers'][1]; post(browser, '/shop/visitor', data=dict(customer=customer))  # of whom nothing was told
    text = browser.get('/').text; ids = lambda address: [r['article_id'] for r in browser.get(address).json['recommendations']]
    assert rail(text, 'for-you') == ids(f'/recommend/{customer}?k=12') and rail(text, 'new') == ids('/new_in?k=12') and rail(text, 'trending') == ids('/trending?k=12')
    last = next(h for h in browser.get(f'/user_profile/{customer}').json['history'] if h['kind'] == 'purchase')
    assert f"Because you bought {last['prod_name']}" in text and rail(text, 'because-1') == ids(f"/similar_items/{last['article_id']}?k=12")
    first = rail(text, 'for-you')[0]; page = browser.get(f'/shop/article/{first}').text
    assert 'number 1 of what we recommend to you' in page and rail(page, 'similar') == ids(f'/similar_items/{first}?k=12&by=look')
    assert (rail(page, 'together') or []) == ids(f'/frequently_bought_together/{first}?k=12')
    assert (rail(page, 'outfit') or []) == [r['article_id'] for r in browser.post('/complete_the_outfit', json=dict(items=[first], k=12)).json['recommendations']]
    assert articles(re.search('<main.*</main>', browser.get('/shop/search?q=dress').text, re.S)[0]) == [r['article_id'] for r in browser.get('/search?q=dress&k=24').json['results']]


def test_the_reasons_are_those_of_the_api(browser):
    customer = browser.get('/customers?k=1').json['customers'][0]; post(browser, '/shop/visitor', data=dict(customer=customer))
    row = browser.get(f'/recommend/{customer}?k=24&explain=true').json['recommendations'][1]; text = browser.get(f"/shop/article/{row['article_id']}").text
    why = re.search('Why this is recommended.*?</section>', text, re.S)[0]
    for words in [s['words'] for s in row['why']['sources'][:4]] + [f['words'] for f in row['why']['features']] + [h['prod_name'] for h in row['why']['history']]: assert words.replace("'", '&#39;') in why
    assert why.count('moved it up') == sum(f['effect'] > 0 for f in row['why']['features'])


# -- a visitor

def test_a_look_changes_the_page(browser):
    "What a visitor opens counts at once; it is the visitor of the cookie, whom nobody can guess."
    before = browser.get('/').text; me = state(browser).visitor
    assert 'Have a look around' in before and not browser.get(f'/recommend/{me}').json['known']
    seen = rail(before, 'trending')[5]; browser.get(f'/shop/article/{seen}', headers=OURS)
    after = browser.get('/').text
    assert rail(after, 'for-you') != rail(before, 'for-you') and 'Because you looked at' in after and state(browser).visitor == me
    assert [(h['article_id'], h['kind']) for h in browser.get(f'/user_profile/{me}').json['history']] == [(seen, 'view')]
    another = browser.application.test_client(); assert rail(another.get('/').text, 'for-you') == rail(before, 'for-you') and state(another).visitor != me


def test_a_heart_changes_the_page(browser):
    before = browser.get('/').text; liked = rail(before, 'trending')[3]
    part = post(browser, f'/shop/like/{liked}', headers={'HX-Request': 'true'})
    assert part.status_code == 200 and part.text.lstrip().startswith('<div id="personal">') and '<html' not in part.text and 'For you has changed' in part.text
    assert rail(part.text, 'for-you') == rail(browser.get('/').text, 'for-you') != rail(before, 'for-you')
    whole = post(browser, f'/shop/like/{liked}')
    assert whole.status_code == 303 and whole.location == '/' and post(browser, '/shop/like/nope').status_code == 422


@pytest.mark.parametrize('headers,kind', [(OURS, 1), ({'Sec-Fetch-Site': 'none'}, 1), ({}, 1), ({'Referer': 'http://localhost/'}, 1), ({'Sec-Fetch-Site': 'cross-site'}, 0), ({'Sec-Fetch-Site': 'same-site'}, 0),
                                          ({'Referer': 'http://elsewhere.example/'}, 0), (OURS | {'Sec-Purpose': 'prefetch;prerender'}, 0)])
def test_only_a_visitors_own_look_is_noted(browser, recommender, headers, kind):
    "Not one that another page made their browser take."
    browser.get('/'); assert browser.get(f'/shop/article/{recommender.article_ids[0]}', headers=headers).status_code == 200
    assert browser.get(f'/recommend/{state(browser).visitor}').json['known'] == bool(kind)
    browser.head(f'/shop/article/{recommender.article_ids[0]}', headers=OURS) if not kind else None
    assert browser.get(f'/recommend/{state(browser).visitor}').json['known'] == bool(kind)


def test_eyes_of_a_customer(browser):
    customer = browser.get('/customers?k=3').json['customers'][2]; browser.get('/'); post(browser, '/shop/cart/add/' + rail(browser.get('/').text, 'trending')[0])
    assert post(browser, '/shop/visitor', data=dict(customer=customer)).location == '/?done=switched' and state(browser).customer == customer and state(browser).cart == []
    assert f'value="{customer}" selected' in browser.get('/shop/visitor').text and customer[:8] in browser.get('/').text
    me = state(browser).visitor; assert post(browser, '/shop/visitor', data=dict(new='1')).location == '/?done=anew'
    assert state(browser).customer is None and state(browser).visitor != me


def test_nobodys_eyes_outside_of_demo_mode(bundle, recommender):
    "There is no switcher, and who writes a customer into the cookie stays a visitor."
    browser = create_app(dict(BUNDLE=str(bundle))).test_client(); customer = recommender.customer_ids[0]; stranger = browser.get('/').text
    assert 'A customer of this shop' not in browser.get('/shop/visitor').text
    assert post(browser, '/shop/visitor', data=dict(customer=customer)).status_code == 403
    browser.set_cookie(COOKIE, changed(state(browser), customer=customer).text())
    assert rail(browser.get('/').text, 'for-you') == rail(stranger, 'for-you') and customer[:8] not in browser.get('/shop/visitor').text


# -- preferences and cart

def test_preferences(browser):
    choice = browser.get('/filters').json; group = choice['index_group'][0]
    assert post(browser, '/shop/preferences', data=dict(index_group=group, price_max='1000', exclude_bought='on')).location == '/?done=saved'
    assert state(browser).filters() == [('index_group', group), ('price_max', 1000.)] and state(browser).exclude_bought
    text = browser.get('/').text; assert f'<span class="chip">{group.replace("&", "&amp;")}</span>' in text
    for name in ('for-you', 'trending'): assert {browser.get(f'/items/{a}').json['index_group_name'] for a in rail(text, name)} == {group}
    assert re.search(f'value="{re.escape(group)}" checked', browser.get('/shop/preferences').text)
    for wrong, name in ((dict(price_min='cheap'), 'Lowest price'), (dict(price_min='5', price_max='2'), 'Highest price'), (dict(price_max='-1'), 'Highest price'), (dict(index_group='Nowhere'), 'Departments'), (dict(price_min='nan'), 'Lowest price')):
        answer = post(browser, '/shop/preferences', data=wrong)
        assert answer.status_code == 422 and f'{name}: expected' in answer.text and state(browser).filters() == [('index_group', group), ('price_max', 1000.)], wrong
    assert post(browser, '/shop/preferences', data=dict(index_group=group, clear='1')).status_code == 303 and state(browser).filters() == [] and not state(browser).exclude_bought


def test_cart(browser):
    shown = rail(browser.get('/').text, 'trending'); me = state(browser).visitor
    assert 'Nothing is in it' in browser.get('/shop/cart').text and post(browser, '/shop/cart/buy').location == '/shop/cart'
    assert post(browser, f'/shop/cart/add/{shown[0]}').location == '/shop/cart'
    part = post(browser, f'/shop/cart/add/{shown[1]}', headers={'HX-Request': 'true'}).text
    assert 'In your cart' in part and 'hx-swap-oob' in part and '<html' not in part
    text = browser.get('/shop/cart').text; prices = [browser.get(f'/items/{a}').json['price'] for a in shown[:2]]
    assert state(browser).cart == shown[:2] and looks.price(sum(p for p in prices if p is not None)) in text
    assert (rail(text, 'outfit') or []) == [r['article_id'] for r in browser.post('/complete_the_outfit', json=dict(items=shown[:2], k=12)).json['recommendations']]
    post(browser, f'/shop/cart/add/{shown[0]}'); assert state(browser).cart == shown[:2]  # once
    assert {h['article_id'] for h in browser.get(f'/user_profile/{me}').json['history'] if h['kind'] == 'cart'} == set(shown[:2])
    assert f'id="cart"' in post(browser, f'/shop/cart/remove/{shown[0]}', headers={'HX-Request': 'true'}).text and state(browser).cart == shown[1:2]
    assert {h['article_id'] for h in browser.get(f'/user_profile/{me}').json['history'] if h['kind'] == 'cart'} == set(shown[1:2])  # the service knows, too
    assert post(browser, '/shop/cart/buy').location == '/?done=bought' and state(browser).cart == []
    assert browser.get(f'/user_profile/{me}').json['history'][0]['kind'] == 'purchase' and 'Because you bought' in browser.get('/').text
    assert post(browser, '/shop/cart/add/nope').status_code == 404


def test_the_outfit_keeps_to_the_preferences(browser):
    group = browser.get('/filters').json['index_group'][-1]; items = rail(browser.get('/').text, 'trending')[:2]
    post(browser, '/shop/preferences', data=dict(index_group=group)); [post(browser, f'/shop/cart/add/{a}') for a in items]
    wanted = [r['article_id'] for r in browser.post('/complete_the_outfit', json=dict(items=items, k=12, filters=dict(index_group=[group]))).json['recommendations']]
    assert (rail(browser.get('/shop/cart').text, 'outfit') or []) == wanted and {browser.get(f'/items/{a}').json['index_group_name'] for a in wanted} <= {group}


def test_preferences_of_another_catalogue(browser):
    browser.set_cookie(COOKIE, as_cookie(section=['Nowhere'])); assert browser.get('/').text.count('Your preferences do not fit') == 3


def test_a_cart_has_an_end(browser, recommender):
    browser.get('/'); browser.set_cookie(COOKIE, changed(state(browser), cart=[recommender.article_ids[i] for i in range(CART)]).text())
    assert post(browser, f'/shop/cart/add/{recommender.article_ids[CART]}').status_code == 409 and len(state(browser).cart) == CART
    part = post(browser, f'/shop/cart/add/{recommender.article_ids[CART]}', headers={'HX-Request': 'true'}); assert part.mimetype == 'text/plain' and part.text.startswith('The cart is full. It holds')


def test_what_left_the_catalogue_leaves_the_cart(browser, recommender):
    browser.get('/'); browser.set_cookie(COOKIE, changed(state(browser), cart=['gone', recommender.article_ids[0]]).text())
    assert browser.get('/shop/cart').status_code == 200 and state(browser).cart == [recommender.article_ids[0]]


# -- the cookie

def as_cookie(**fields): return base64.urlsafe_b64encode(json.dumps(dict(visitor='visitor-' + 'a' * 22) | fields).encode()).decode().rstrip('=')

@pytest.mark.parametrize('value', ['', 'x', '%%%', 'bnVsbA', base64.urlsafe_b64encode(b'\xff\x00').decode(), base64.urlsafe_b64encode(b'[' * 2000).decode(), 'A' * 5000, as_cookie(visitor='somebody'), as_cookie(visitor='visitor-' + 'a' * 22 + '\n'),
                                   as_cookie(admin=True), as_cookie(cart='x'), as_cookie(cart=['x'] * (CART + 1)), as_cookie(cart=[1]), as_cookie(price_min='1'), as_cookie(price_max=float('nan')), as_cookie(price_max=-1),
                                   as_cookie(customer=''), as_cookie(customer='x' * 257), as_cookie(section=[''])])
def test_a_cookie_of_nonsense(browser, value):
    "Makes a new visitor."
    browser.set_cookie(COOKIE, value); answer = browser.get('/')
    assert answer.status_code == 200 and state(browser).visitor != 'visitor-' + 'a' * 22 and state(browser) == Visitor(visitor=state(browser).visitor)


@pytest.mark.parametrize('fields', [dict(customer='no/such?customer#%00<b>'), dict(index_group=['Nowhere']), dict(cart=['../../etc/passwd', '<b>']), dict(price_min=9., price_max=1.), dict(section=['\u202e\ud83d\udc57'])])
def test_a_cookie_that_makes_sense_to_nobody(browser, recommender, fields):
    "Is answered, without a fault."
    browser.set_cookie(COOKIE, as_cookie(**fields))
    for answer in everywhere(browser, recommender.article_ids[0]): assert answer.status_code in (200, 404) and '<b>' not in answer.text


def test_the_cookie(browser):
    headers = browser.get('/').headers['Set-Cookie']
    assert 'HttpOnly' in headers and 'SameSite=Lax' in headers and 'Path=/' in headers and 'Secure' not in headers
    assert 'Secure' in browser.get('/', base_url='https://localhost').headers['Set-Cookie']
    full = Visitor(cart=['0' * 10] * CART, customer='f' * 64, section=['Womens Everyday Collection'] * 20)
    assert read(full.text()) == full and full.fits() and changed(full, section=['x' * 200] * 40) is None and changed(full, cart=[''] ) is None and LONGEST < 4096


# -- safety

CHANGES = ['/shop/like/{a}', '/shop/cart/add/{a}', '/shop/cart/remove/{a}', '/shop/cart/buy', '/shop/preferences', '/shop/visitor', '/shop/picture']

@pytest.mark.parametrize('headers', [{}, {'Sec-Fetch-Site': 'cross-site'}, {'Sec-Fetch-Site': 'same-site'}, {'Sec-Fetch-Site': 'none'}, {'Origin': 'null'}, {'Origin': 'http://elsewhere.example'}, {'Origin': 'http://localhost.elsewhere.example'},
                                     {'Origin': 'http://localhost', 'Sec-Fetch-Site': 'cross-site'}, {'Referer': 'http://localhost/'}])
@pytest.mark.parametrize('address', CHANGES)
def test_forms_of_other_sites_are_refused(browser, recommender, address, headers):
    browser.get('/'); a, b = recommender.article_ids[0], recommender.article_ids[1]; post(browser, f'/shop/cart/add/{b}'); before = state(browser); known = browser.get(f'/user_profile/{before.visitor}').json
    answer = browser.post(address.format(a=a if 'remove' not in address else b), headers=headers, data=dict(customer='x', new='1', index_group='x'))
    assert answer.status_code == 403 and 'nothing was changed' in answer.text and state(browser) == before and browser.get(f'/user_profile/{before.visitor}').json == known


def test_our_own_forms_are_not(browser, recommender):
    assert browser.post(f'/shop/cart/add/{recommender.article_ids[0]}', headers={'Origin': 'http://localhost'}).status_code == 303  # a browser that does not send Sec-Fetch-Site


def test_nobody_comes_in_through_the_shop(bundle, recommender):
    "Where the service asks for a key, its pages do too; they show nothing without, and a cart is not lost over it."
    browser = create_app(dict(BUNDLE=str(bundle), API_KEYS=['k' * 16], DEMO=True)).test_client(); cookie = as_cookie(cart=[recommender.article_ids[0]]); browser.set_cookie(COOKIE, cookie)
    for answer in everywhere(browser, recommender.article_ids[0]): assert answer.status_code == 401 and answer.mimetype == 'application/problem+json' and 'Set-Cookie' not in answer.headers
    assert browser.get_cookie(COOKIE).value == cookie and browser.get('/', headers={'X-API-Key': 'k' * 16}).status_code == 200 and state(browser).cart == [recommender.article_ids[0]]


def test_nothing_but_our_own_files(browser, recommender):
    "The policy is strict, and the pages keep to it: no script or style in them."
    for answer in [*everywhere(browser, recommender.article_ids[0]), post(browser, '/shop/cart/add/nope')]:
        policy = answer.headers['Content-Security-Policy']
        assert policy == safety.POLICY and 'unsafe' not in policy and "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert answer.headers['Cache-Control'] == 'no-store' and answer.headers['X-Content-Type-Options'] == 'nosniff'
        assert not re.search(r'<script(?![^>]* src=)|<style|\sstyle=|\son[a-z]+=|javascript:|(?:src|href|action)="(?:https?:)?//', answer.text)
        for address in re.findall(r'(?:src|href)="(/shop/static/[^"]+)"', answer.text):
            file = browser.get(address); assert file.status_code == 200 and file.cache_control.max_age > 10 ** 6
    assert browser.get('/shop/static/../app.py').status_code == browser.get('/shop/static/%2e%2e/app.py').status_code == 404


def test_hostile_names_stay_text(own_shop, recommender):
    "Whatever a catalogue, a query or a cookie says is text on a page."
    class Hostile:
        def __getitem__(self, i): return HOSTILE
    browser = own_shop.test_client(); r = own_shop.extensions['bundles'].recommender; r.text = {c: Hostile() for c in [*r.text, 'detail_desc', 'section_name']}
    for group in r.catalogue.names.values(): group[:] = [f'{HOSTILE}{n}' for n in range(len(group))]
    browser.get('/'); browser.set_cookie(COOKIE, changed(state(browser), customer=HOSTILE, section=[HOSTILE + '0'], cart=[recommender.article_ids[0], HOSTILE]).text())
    answers = everywhere(browser, recommender.article_ids[1]) + [browser.get('/shop/search', query_string=dict(q=HOSTILE)), browser.get('/shop/article/' + HOSTILE.replace('/', '')), browser.get(f'/shop/image/{recommender.article_ids[1]}'),
        post(browser, f'/shop/like/{recommender.article_ids[2]}', headers={'HX-Request': 'true'}), post(browser, f'/shop/cart/add/{recommender.article_ids[3]}', headers={'HX-Request': 'true'}), post(browser, '/shop/preferences', data=dict(index_group=HOSTILE, price_min=HOSTILE))]
    shown = 0
    for answer in answers:
        assert answer.status_code < 500 and '<script>alert' not in answer.text and '<img src=x' not in answer.text and '49' not in re.findall(r'onerror=alert\(1\)&gt;(.{0,2})', answer.text)
        shown += '&lt;script&gt;' in answer.text
    assert shown >= 8


# -- pictures

def test_pictures(browser, recommender, images):
    there, missing = recommender.article_ids[0], recommender.article_ids[1]
    answer = browser.get(f'/shop/image/{there}'); assert answer.content_type == 'image/jpeg' and answer.data == (images / there[:3] / f'{there}.jpg').read_bytes() and answer.cache_control.max_age
    swatch = browser.get(f'/shop/image/{missing}'); about = browser.get(f'/items/{missing}').json
    assert swatch.status_code == 200 and swatch.mimetype == 'image/svg+xml' and looks.tint(about['colour_group_name']) in swatch.text and about['product_type_name'][:10] in swatch.text and 'Set-Cookie' not in swatch.headers
    for address in ('nope', '..%2f..%2fetc%2fpasswd', '%2e%2e', 'x' * 300): assert browser.get(f'/shop/image/{address}').status_code in (404, 422)


def test_search_by_picture(browser, recommender):
    if not recommender.can_search: pytest.skip('a bundle without search')
    image = encoded(picture()); found = [r['article_id'] for r in browser.post('/search/image?k=24', **multipart(image)).json['results']]
    answer = post(browser, '/shop/picture', **multipart(image))
    assert answer.status_code == 200 and articles(re.search('<main.*</main>', answer.text, re.S)[0]) == found
    for wrong in (multipart(b'no picture'), multipart(bytes(9_000_000)), multipart(image, 'other'), dict(data=b'', content_type='text/plain')):
        answer = post(browser, '/shop/picture', **wrong); assert 400 <= answer.status_code < 500 and 'expected' in answer.text and '<h1>' in answer.text


@pytest.mark.parametrize('names', [('Blue', 'Dark Blue'), ('Light Pink', 'Pink'), ('Light Beige', 'Greyish Beige')])
def test_tints(names):
    light, dark = (sum(int(looks.tint(n)[i:i + 2], 16) for i in (1, 3, 5)) for n in names); assert light > dark
    assert all(re.fullmatch('#[0-9a-f]{6}', looks.tint(n)) for n in (*names, '', 'Other', 'Off White', 'Bronze/Copper', HOSTILE)) and looks.tint('Other') == looks.UNKNOWN


@pytest.mark.parametrize('value,text', [(None, ''), (0.0338983, '0.0339'), (24.99, '24.99'), (1299, '1,299.00'), (0, '0')])
def test_prices(value, text): assert looks.price(value) == text


# -- what is missing

def test_without_search_and_complements(own_shop, recommender, monkeypatch):
    "Their parts are not there; the rest is."
    class Less(Recommender): can_complement = False
    browser = own_shop.test_client(); r = own_shop.extensions['bundles'].recommender; monkeypatch.setattr(r, '__class__', Less); monkeypatch.setattr(r, 'can_search', False); monkeypatch.setattr(r, 'can_search_images', False)
    home, page = browser.get('/').text, browser.get(f'/shop/article/{recommender.article_ids[0]}').text
    assert 'role="search"' not in home and 'type="file"' not in home and rail(home, 'for-you')
    assert rail(page, 'outfit') is rail(page, 'together') is None and 'cannot be shown' not in page and rail(page, 'similar')
    answer = browser.get('/shop/search?q=dress'); assert answer.status_code == 404 and 'This shop cannot search' in answer.text
    assert post(browser, f'/shop/cart/add/{recommender.article_ids[0]}').status_code == 303 and 'Complete the outfit' not in browser.get('/shop/cart').text
    if not recommender.can_search: return
    monkeypatch.setattr(r, 'can_search', True); home = browser.get('/').text  # by words only: no picture can be given
    assert 'role="search"' in home and 'type="file"' not in home and browser.get('/shop/search?q=dress').status_code == 200


def failing(name, status=503, detail='it is away'):
    "An `ask` to which one route answers with a problem."
    ask = pages.ask
    def asked(method, *address, **how):
        if address[0] != name: return ask(method, *address, **how)
        return SimpleNamespace(status=status, ok=False, missing=status == 404, said={}, rows=[], errors=[], detail=detail, response=None)
    return asked


@pytest.mark.parametrize('name', ['recommend', 'user_profile', 'similar_items', 'new_in', 'trending', 'customers', 'healthz', 'frequently_bought_together', 'complete_the_outfit', 'events', 'filters', 'search'])
def test_one_part_that_fails_does_not_take_the_page_along(browser, recommender, monkeypatch, name):
    browser.get(f'/shop/article/{recommender.article_ids[0]}'); monkeypatch.setattr(pages, 'ask', failing(name))
    home, page = browser.get('/'), browser.get(f'/shop/article/{recommender.article_ids[0]}', headers=OURS)
    assert home.status_code == page.status_code == 200 and '<h1' in home.text and '<h1' in page.text
    told = {'recommend': home, 'new_in': home, 'trending': home, 'similar_items': home, 'frequently_bought_together': page, 'complete_the_outfit': page, 'events': page}.get(name)
    if told: assert 'it is away' in told.text
    for address in ('/shop/preferences', '/shop/cart', '/shop/visitor'): assert browser.get(address).status_code == 200


def test_nothing_is_bought_that_was_not_kept(browser, recommender, monkeypatch):
    post(browser, f'/shop/cart/add/{recommender.article_ids[0]}'); monkeypatch.setattr(pages, 'ask', failing('events', 507, 'no room is left'))
    answer = post(browser, '/shop/cart/buy'); assert answer.status_code == 507 and 'no room is left' in answer.text and state(browser).cart == [recommender.article_ids[0]]


def test_nothing_here(browser):
    for address in ('/shop/', '/shop/nothing', '/shop/article/nope', '/shop/article/' + 'x' * 300):
        answer = browser.get(address); assert answer.status_code in (404, 422) and answer.mimetype == 'text/html' and 'Look around' in answer.text
    assert browser.get('/shop/cart/buy').status_code in (404, 405)
