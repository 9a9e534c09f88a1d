"""The shop window in a browser: walked by a visitor and by a customer, on a desk and on a phone, by light and by dark, by keyboard, and without scripts.

Debian's Chromium, driven by Playwright; axe-core looks at every page. Pictures of the pages are written to the folder LOOKBOOK_SCREENSHOTS."""
import io, os, sys, time
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import expect

from .conftest import ROOT, Server

SIZES = dict(desk=dict(viewport=dict(width=1280, height=900)), phone=dict(viewport=dict(width=375, height=760), is_mobile=True, has_touch=True))
RULES = dict(light={'rules': {'target-size': {'enabled': True}}, 'resultTypes': ['violations']},  # all, and one of WCAG 2.2 that axe leaves out by default
             dark={'runOnly': ['color-contrast', 'link-in-text-block'], 'resultTypes': ['violations']})  # what colours can change
LONGEST = 3000  # pixels of a picture's height


@pytest.fixture(scope='module')
def pictures(bundle, recommender, tmp_path_factory):
    "The folder of images of the bundle's run; where there is none, some that are drawn."
    folder = bundle.parents[1] / 'twin/images'
    if folder.is_dir(): return folder
    folder = tmp_path_factory.mktemp('images')
    for i in range(0, len(recommender.article_ids), 2):
        path = folder / recommender.article_ids[i][:3] / f'{recommender.article_ids[i]}.jpg'; path.parent.mkdir(exist_ok=True)
        Image.new('RGB', (128, 128), (90 + 13 * i % 120, 80 + 7 * i % 120, 90 + 29 * i % 120)).save(path)
    return folder


@pytest.fixture(scope='module')
def shop(bundle, pictures, tmp_path_factory):
    "The address of the running service, as `make serve` starts it."
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv('LOOKBOOK_DEMO', '1'); environment.setenv('LOOKBOOK_IMAGES', str(pictures))
        server = Server(sys.executable, ROOT, bundle, tmp_path_factory.mktemp('shop') / 'log', workers=2)
    with server: yield f'http://127.0.0.1:{server.port}'


@pytest.fixture(scope='session')
def album(tmp_path_factory):
    folder = Path(os.environ.get('LOOKBOOK_SCREENSHOTS') or tmp_path_factory.mktemp('screenshots')); folder.mkdir(parents=True, exist_ok=True)
    return folder


class Walk:
    "A browser's window, and what went wrong in it."
    def __init__(self, chromium, shop, album, name, **settings):
        self.shop, self.album, self.name, self.wrong, self.expected = shop, album, name, [], set()
        self.context = chromium.new_context(base_url=shop, reduced_motion='reduce', **settings); self.context.set_default_timeout(60_000); self.page = self.context.new_page()
        self.page.on('request', lambda r: None if r.url.startswith(shop + '/') else self.wrong.append(f'asked elsewhere: {r.url}'))
        self.page.on('response', lambda r: None if r.status < 400 or r.url in self.expected else self.wrong.append(f'{r.status}: {r.url}'))
        self.page.on('console', lambda m: self.wrong.append(f'console: {m.text}') if m.type in ('error', 'warning') and m.location['url'] not in self.expected else None)
        self.page.on('pageerror', lambda e: self.wrong.append(f'script: {e}'))

    def __enter__(self): return self

    def __exit__(self, kind, *_):
        self.context.close()
        if kind is None: assert self.wrong == []

    def open(self, address, status=200):
        if status >= 400: self.expected.add(self.shop + address)
        assert self.page.goto(address).status == status

    def look(self, name):
        "By light and by dark: axe-core finds nothing, nothing is cut off sideways; a picture of each."
        page = self.page  # images out of sight are asked for again and again: the page may have come a moment ago
        self.until("[...document.images].forEach(i => { i.loading = 'eager' }), document.readyState === 'complete' && document.fonts.status === 'loaded' && [...document.images].every(i => i.complete && i.naturalWidth)")
        assert page.evaluate('document.documentElement.scrollWidth <= innerWidth'), name
        assert page.evaluate("[...document.images].every(i => i.hasAttribute('alt') && i.width && i.height)")
        clip = dict(x=0, y=0, width=page.viewport_size['width'], height=min(page.evaluate('document.documentElement.scrollHeight'), LONGEST))
        for scheme, rules in RULES.items():
            page.emulate_media(color_scheme=scheme)
            found = Axe().run(page, options=rules).response['violations']
            assert not found, (scheme, [(v['id'], v['help'], [n['html'][:200] for n in v['nodes'][:3]]) for v in found])
            page.screenshot(path=self.album / f'{self.name}-{name}-{scheme}.png', full_page=True, clip=clip, animations='disabled')

    def until(self, condition):
        "Wait for a condition in JavaScript; Playwright's own way to is against the policy of the pages."
        end = time.monotonic() + 60  # a machine may be busy
        while not self.page.evaluate(condition): assert time.monotonic() < end, condition; self.page.wait_for_timeout(30)

    def rail(self, name): return [a.split('/')[-1] for a in self.page.locator(f'#{name} .card a').evaluate_all('all => all.map(a => a.href)')]


@pytest.fixture
def walk(chromium, shop, album): return lambda name='plain', **settings: Walk(chromium, shop, album, name, **SIZES['desk'] | settings)


@pytest.mark.parametrize('size', SIZES)
def test_a_visitor(walk, recommender, size):
    "Looks around, and the page changes; puts things in the cart and buys them."
    with walk(f'visitor-{size}', **SIZES[size]) as w:
        page = w.page; w.open('/'); expect(page.get_by_role('heading', level=1)).to_have_text('Have a look around'); w.look('1-home')
        before = w.rail('for-you'); page.locator('#trending .card a').nth(4).click()
        expect(page.get_by_role('heading', name='Similar look')).to_be_visible(); w.look('2-article'); name = page.get_by_role('heading', level=1).inner_text()
        page.get_by_role('button', name='Add to cart').click(); expect(page.get_by_role('link', name='In your cart')).to_be_focused(); expect(page.locator('#cart-link .count')).to_contain_text('1')
        page.go_back(); expect(page.get_by_role('heading', name='Because of what is in your cart: ' + name)).to_be_visible(); after = w.rail('for-you'); assert after != before
        heart = page.locator('#for-you .card form button').nth(2); heart.click()  # the page stays, its part changes
        expect(page.locator('#status')).to_have_text('For you has changed.'); w.look('3-home-after'); assert w.rail('for-you') != after and page.url == w.shop + '/'
        w.open('/shop/cart'); added = w.rail('outfit')[0]; page.locator('#outfit .card form button').first.click(); expect(page.locator('.lines li')).to_have_count(2); w.look('4-cart'); assert page.locator(f'.lines a[href$="{added}"]').count() == 1
        page.get_by_role('button', name='Buy').click(); expect(page.get_by_text('Thank you')).to_be_visible(); expect(page.get_by_role('heading', name='Because you bought')).to_be_visible()
        if recommender.can_search:
            page.get_by_label('Search in words').fill('red dress'); page.keyboard.press('Enter'); expect(page.get_by_role('heading', level=1)).to_have_text('“red dress”'); w.look('5-search')
            page.locator('.picture summary').click(); w.look('6-picture'); held = io.BytesIO(); Image.new('RGB', (200, 260), 'navy').save(held, 'PNG')
            page.locator('#image').set_input_files(dict(name='a.png', mimeType='image/png', buffer=held.getvalue())); page.get_by_role('button', name='Find', exact=True).click()
            expect(page.get_by_role('heading', level=1)).to_have_text('What looks like your picture'); assert page.locator('.grid .card').count() == 24
        w.open('/shop/preferences'); page.get_by_role('checkbox').first.check(); page.get_by_label('Highest').fill('x'); w.expected.add(w.shop + '/shop/preferences'); page.get_by_role('button', name='Keep these').click()
        expect(page.get_by_role('alert')).to_contain_text('Highest price: expected'); w.look('7-preferences')
        page.get_by_label('Highest').fill('100'); page.get_by_role('button', name='Keep these').click(); expect(page.locator('.chips')).to_contain_text('up to 100')
        w.open('/shop/visitor'); w.look('8-visitor'); w.open('/shop/article/nope', 404); w.look('9-nothing')


@pytest.mark.parametrize('size', SIZES)
def test_a_customer(walk, size):
    "Somebody with a history: their recommendations, the reasons, what is known of them."
    with walk(f'customer-{size}', **SIZES[size]) as w:
        page = w.page; w.open('/shop/visitor'); w.look('1-switch'); page.get_by_label('A customer of this shop').select_option(index=1); page.get_by_role('button', name='Look').first.click()
        expect(page.get_by_role('heading', name='Because you bought')).to_be_visible(); w.look('2-home')
        page.locator('#for-you .card a').first.click(); expect(page.get_by_role('heading', name='Why this is recommended')).to_be_visible(); assert page.locator('.reasons li').count() >= 2; w.look('3-article')
        w.open('/shop/visitor'); expect(page.get_by_role('heading', name='What was done')).to_be_visible(); w.look('4-profile')


def test_by_keyboard(walk):
    "From the top of the page to an article, and along a carousel; what has the focus can be seen."
    with walk() as w:
        page = w.page; w.open('/'); focused = lambda: page.evaluate("(e => e.className + ' ' + (e.closest('.scroll') || e).id)(document.activeElement)")
        page.keyboard.press('Tab'); assert focused().startswith('skip') and page.evaluate("document.activeElement.getBoundingClientRect().top >= 0"); page.keyboard.press('Enter'); assert page.evaluate('document.activeElement.id') == 'content'
        while 'for-you' not in focused(): page.keyboard.press('Tab')
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == 'solid'
        page.keyboard.press('ArrowRight'); w.until("document.getElementById('for-you').scrollLeft > 0")  # the carousel itself
        page.keyboard.press('Tab'); first = page.evaluate('document.activeElement.href'); page.keyboard.press('Enter'); page.wait_for_url(first)
        expect(page.get_by_role('heading', name='Similar look')).to_be_visible(); page.go_back()
        page.locator('#trending .card form button').nth(1).focus(); page.keyboard.press('Enter'); expect(page.locator('#status')).to_have_text('For you has changed.')
        page.locator('.arrows button[aria-label="Further: Trending"]').focus(); page.keyboard.press('Enter'); w.until("document.getElementById('trending').scrollLeft > 100")
        if page.locator('.picture summary').count():
            page.locator('.picture summary').focus(); page.keyboard.press('Enter'); expect(page.locator('#image')).to_be_visible(); page.keyboard.press('Escape'); expect(page.locator('#image')).to_be_hidden()


def test_a_picture_dropped_on_the_page(walk, recommender):
    if not recommender.can_search: pytest.skip('a bundle without search')
    with walk() as w:
        page = w.page; w.open('/')
        data = page.evaluate_handle("""async () => { const c = document.createElement('canvas'); c.width = c.height = 64; c.getContext('2d').fillRect(0, 0, 64, 64)
            const blob = await new Promise(done => c.toBlob(done, 'image/png')), data = new DataTransfer(); data.items.add(new File([blob], 'a.png', {type: 'image/png'})); return data }""")
        page.dispatch_event('main', 'dragover', dict(dataTransfer=data)); expect(page.locator('#drop')).to_be_visible()
        page.dispatch_event('main', 'drop', dict(dataTransfer=data)); expect(page.get_by_role('heading', level=1)).to_have_text('What looks like your picture')


def test_without_scripts(walk):
    "Everything can be done by links and forms."
    with walk(java_script_enabled=False) as w:
        page = w.page; w.open('/'); before = w.rail('for-you'); page.locator('#trending .card form button').nth(2).click(); expect(page.locator('#because-1')).to_be_visible(); assert w.rail('for-you') != before
        page.locator('#for-you .card a').first.click(); page.get_by_role('button', name='Add to cart').click(); expect(page.get_by_role('heading', level=1)).to_have_text('Cart')
        page.locator('#outfit .card form button').first.click(); expect(page.locator('.lines li')).to_have_count(2); page.get_by_role('button', name='Take out').first.click(); expect(page.locator('.lines li')).to_have_count(1)
        page.get_by_role('button', name='Buy').click(); expect(page.get_by_text('Thank you')).to_be_visible(); expect(page.locator('.arrows').first).to_be_hidden()
