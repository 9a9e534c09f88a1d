"""The pages: what each asks of the API, and what it does with the answers."""
import hashlib
from functools import cache
from pathlib import Path

from flask import Blueprint, Response, g, redirect, render_template, request, url_for
from werkzeug.exceptions import Forbidden, HTTPException, NotFound

from ..problems import problem
from . import looks, safety
from .api import Answer, ask
from .visitor import CART, COOKIE, Visitor, changed, keep, read

bp = Blueprint('shop', __name__, static_folder='../static', static_url_path='/shop/static', template_folder='../templates')
RAIL, GRID, EXPLAINED, CUSTOMERS = 12, 24, 24, 8  # articles in a carousel, in a list of results, asked for with reasons; customers in the switcher
DONE = dict(bought='Thank you. What you bought counts already: have a look.', saved='Your preferences are kept.', switched='You look through the eyes of this customer now.',
            anew='You are a new visitor now, of whom nothing is known.')
BECAUSE = dict(purchase='Because you bought', view='Because you looked at', cart='Because of what is in your cart:')
DAY = 24 * 60 * 60  # seconds


def init_app(app):
    "Put the shop window into an application."
    app.register_blueprint(bp)
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.jinja_env.filters.update(price=looks.price, ago=looks.ago, named=looks.named, tint=looks.tint, short=looks.short)


# -- around each page

@bp.before_request
def enter():
    "Only our own pages may change something; then, who is it?"
    g.visitor = read(request.cookies.get(COOKIE, ''))
    if request.method not in ('GET', 'HEAD') and request.endpoint != 'shop.static' and not safety.own_form():
        raise Forbidden('This came from a page that is not ours, so nothing was changed.')


@bp.after_request
def leave(response):
    "The headers of a page, and its cookie."
    response.headers.extend(safety.HEADERS)
    if request.endpoint == 'shop.static': response.cache_control.max_age = 365 * DAY if 'v' in request.args else DAY; return response
    if request.endpoint == 'shop.image': return response
    response.headers['Cache-Control'] = 'no-store'  # so that going back shows what has changed
    response.vary.add('HX-Request')
    if 'visitor' in g: keep(response, g.visitor, request.is_secure)
    return response


@bp.errorhandler(HTTPException)
def friendly(e):
    "A page for what went wrong; nothing is shown to somebody whom the service refused before we saw them."
    if 'visitor' not in g: return problem(e)
    return message({403: 'Not from here', 404: 'Nothing here'}.get(e.code, e.name), e.description or '', e.code)


def page(template, **what):
    "A whole page; what a page needs to know of the service is asked here."
    return render_template(template, service=service().said, customers=customers(), who=who(), visitor=g.visitor, done=DONE.get(request.args.get('done')), DID=looks.DID, static=static, **what)


def once(name, question):
    "What was asked for this page already, or is asked now."
    if name not in g: setattr(g, name, question())
    return g.get(name)


def service() -> Answer: return once('service', lambda: ask('GET', 'healthz'))
def customers() -> list: return once('customers', lambda: ask('GET', 'customers', parameters=[('k', CUSTOMERS)]).said.get('customers') or [])  # none outside of demo mode
def who() -> str: return g.visitor.customer if g.visitor.customer and customers() else g.visitor.visitor


def wanted_part() -> bool: return request.headers.get('HX-Request') == 'true'  # a script of ours asks for a part of a page


def change(**fields) -> bool:
    "Change the visitor's state, if that makes sense."
    new = changed(g.visitor, **fields); g.visitor = new or g.visitor
    return new is not None


def tell(kind: str, *articles: str) -> Answer:
    "Note what the visitor did."
    return ask('POST', 'events', json=dict(events=[dict(customer_id=who(), article_id=a, kind=kind) for a in articles]))


def limited(k) -> list: return [('k', k), *g.visitor.filters()]
def completed(items) -> Answer: return ask('POST', 'complete_the_outfit', json=dict(items=items, k=RAIL, filters=g.visitor.filtered()))
def of_customer(k) -> list: return limited(k) + ([('exclude_bought', 'true')] if g.visitor.exclude_bought else [])


# -- home

@bp.get('/')
def home():
    return page('home.html', new=ask('GET', 'new_in', parameters=limited(RAIL)), trending=ask('GET', 'trending', parameters=limited(RAIL)), **personal())


def personal() -> dict:
    "What changes with what the visitor does."
    mine = ask('GET', 'recommend', who(), parameters=of_customer(RAIL)); profile = ask('GET', 'user_profile', who()); done = profile.said.get('history') or []
    causes = [h for h in (next(iter(done), None), next((h for h in done if h['kind'] == 'purchase'), None)) if h]  # the last thing, and the last purchase
    causes = list({h['article_id']: h for h in causes}.values())
    similar = [(f"{BECAUSE[h['kind']]} {looks.named(h)}", ask('GET', 'similar_items', h['article_id'], parameters=limited(RAIL))) for h in causes]
    return dict(mine=mine, because=similar, taste=profile.said.get('taste') or {})


@bp.post('/shop/like/<id:article_id>')
def like(article_id):
    "More of this, please: the page changes at once."
    noted = tell('click', article_id)
    if not wanted_part(): return redirect(url_for('.home'), 303) if noted.ok else refusal(noted)
    return render_template('personal.html', noted=noted, part=True, who=who(), visitor=g.visitor, service=service().said, **personal())


# -- an article

@bp.get('/shop/article/<id:article_id>')
def article(article_id):
    item = ask('GET', 'items', article_id)
    if not item.ok: return no_article(item)
    mine = ask('GET', 'recommend', who(), parameters=of_customer(EXPLAINED) + [('explain', 'true')])  # before the look at it is noted: it would be the reason
    place, why = next(((n, row['why']) for n, row in enumerate(mine.rows, 1) if row['article_id'] == article_id and 'why' in row), (None, None))
    came = safety.came_from(); noted = tell('click' if came == 'here' else 'view', article_id) if came != 'elsewhere' else None
    return page('article.html', item=item.said, noted=noted, why=why, place=place, asked=mine, in_cart=article_id in g.visitor.cart,
                similar=ask('GET', 'similar_items', article_id, parameters=limited(RAIL) + [('by', 'look')]), together=ask('GET', 'frequently_bought_together', article_id, parameters=limited(RAIL)),
                outfit=completed([article_id]))


def no_article(item): return refusal(item, 'We do not have this article', 'There is none of this number in the catalogue.' if item.status == 404 else '')


@bp.get('/shop/image/<id:article_id>')
def image(article_id):
    "The picture of an article; where there is none, a swatch of its colour with what it is."
    found = ask('GET', 'items', article_id, 'image')
    if found.ok: response = Response(found.response.data, content_type=found.response.content_type); response.cache_control.max_age = DAY; return response
    item = ask('GET', 'items', article_id)
    response = Response(render_template('swatch.svg', item=item.said), 200 if item.ok else 404, content_type='image/svg+xml'); response.cache_control.max_age = 600
    return response


# -- search

@bp.get('/shop/search')
def search():
    words = request.args.get('q', '').strip()
    if not words: return page('results.html', words='', found=None)
    if ask('GET', 'items', words).said.get('article_id') == words: return redirect(url_for('.article', article_id=words))  # who types an article's number wants that article
    found = ask('GET', 'search', parameters=[('q', words), ('k', GRID)])
    return page('results.html', words=words, found=found), 200 if found.ok else found.status


@bp.post('/shop/picture')
def picture():
    "The form goes to the API as it came: it is checked there, and never held here."
    found = ask('POST', 'search', 'image', parameters=[('k', GRID)], forward=True)
    return page('results.html', words='', found=found, by_picture=True), 200 if found.ok else found.status


# -- preferences

@bp.get('/shop/preferences')
def preferences(): return preferences_page(g.visitor)


def preferences_page(wish, errors=(), status=200):
    return page('preferences.html', choice=ask('GET', 'filters'), wish=wish, errors=errors), status


@bp.post('/shop/preferences')
def prefer():
    "Kept if the API takes them as filters: what is wrong with them, it says."
    form = request.form; wish = {name: form.getlist(name) for name in ('index_group', 'section')} | {name: form[name].strip().replace(',', '.') for name in ('price_min', 'price_max') if form.get(name, '').strip()}
    if form.get('clear'): wish = dict(index_group=[], section=[])
    tried = ask('GET', 'trending', parameters=[('k', 1), *((n, v) for n in ('index_group', 'section') for v in wish[n]), *((n, wish[n]) for n in ('price_min', 'price_max') if n in wish)])
    if not tried.ok: return preferences_page(wish, tried.errors or [dict(field='', expected=tried.detail)], 422)
    if not change(**wish | {n: float(wish[n]) if n in wish else None for n in ('price_min', 'price_max')}, exclude_bought='exclude_bought' in form and not form.get('clear')):
        return preferences_page(wish, [dict(field='section', expected='fewer of them: these are more than can be kept')], 422)
    return redirect(url_for('.home', done='saved'), 303)


# -- cart

@bp.get('/shop/cart')
def cart(): return page('cart.html', **cart_parts())


def cart_parts() -> dict:
    items = [(a, ask('GET', 'items', a)) for a in g.visitor.cart]
    if gone := [a for a, item in items if item.status == 404]: change(cart=[a for a in g.visitor.cart if a not in gone])  # another bundle, perhaps
    lines = [item.said for _, item in items if item.ok]; prices = [line['price'] for line in lines if line.get('price') is not None]
    return dict(lines=lines, total=sum(prices) if prices else None, unpriced=len(lines) - len(prices), outfit=completed(g.visitor.cart) if g.visitor.cart else None)


def cart_again(noted=None, said=''):
    "The cart after a change, whole or as a part."
    if not wanted_part(): return redirect(url_for('.cart'), 303)
    return render_template('cart_part.html', part=True, noted=noted, said=said, visitor=g.visitor, service=service().said, **cart_parts())


@bp.post('/shop/cart/add/<id:article_id>')
def add(article_id):
    if article_id in g.visitor.cart: return added(article_id)
    item = ask('GET', 'items', article_id)
    if not item.ok: return no_article(item)
    if not change(cart=[*g.visitor.cart, article_id]): return message('The cart is full', f'It holds {CART} articles. Take something out, or buy what is in it.', 409)
    return added(article_id, tell('cart', article_id), looks.named(item.said))


def added(article_id, noted=None, name='It'):
    if wanted_part() and request.headers.get('HX-Target', '') != 'cart': return render_template('added.html', visitor=g.visitor, noted=noted, name=name)
    return cart_again(noted, f'{name} is in your cart.')


@bp.post('/shop/cart/remove/<id:article_id>')
def remove(article_id):
    noted = tell('remove_from_cart', article_id) if article_id in g.visitor.cart else None; change(cart=[a for a in g.visitor.cart if a != article_id])
    return cart_again(noted, said='It is out of your cart.')


@bp.post('/shop/cart/buy')
def buy():
    if not g.visitor.cart: return redirect(url_for('.cart'), 303)
    bought = tell('purchase', *g.visitor.cart)
    if not bought.ok: return refusal(bought, 'Nothing was bought')
    change(cart=[])
    return redirect(url_for('.home', done='bought'), 303)


# -- who is looking

@bp.get('/shop/visitor')
def visitor(): return page('visitor.html', profile=ask('GET', 'user_profile', who()))


@bp.post('/shop/visitor')
def switch():
    "Look through a customer's eyes, in demo mode; or be somebody new."
    wanted = request.form.get('customer', '').strip()
    if request.form.get('new') or not wanted: g.visitor = Visitor(); return redirect(url_for('.home', done='anew'), 303)
    if not customers(): raise Forbidden('Only in demo mode can one look through the eyes of a customer.')
    if not change(customer=wanted, cart=[]): raise NotFound('There is no such customer.')
    return redirect(url_for('.home', done='switched'), 303)


# -- what is left

@bp.get('/shop/', defaults=dict(rest=''))
@bp.get('/shop/<path:rest>')
def nowhere(rest): raise NotFound('There is no page at this address.')


def refusal(answer: Answer, title='That did not work', text=''):
    "A page for what the API refused."
    return message(title, text or answer.detail, answer.status)


def message(title, text, status):
    "A page that says something; who found nothing is shown what sells. A script that asked for a part is told the words."
    if wanted_part(): return Response(f'{title}. {text}', status, content_type='text/plain; charset=utf-8')
    return page('message.html', title=title, text=text, trending=ask('GET', 'trending', parameters=limited(RAIL)) if status == 404 else None), status


def static(name) -> str:
    "The address of a file that the pages need; another one when the file has changed."
    return url_for('.static', filename=name, v=digest(name))


@cache
def digest(name): return hashlib.sha256((Path(bp.static_folder) / name).read_bytes()).hexdigest()[:12]
