"""What goes together: with an article, and with a cart."""
from flask import Blueprint, current_app
from pydantic import Field

from recsys_lib.bundle import Recommender

from .problems import Refused, body, error, query, validate
from .recommendations import Article, Asked, Top, answer

bp = Blueprint('complements', __name__)
LARGEST = 100  # articles of a cart


# -- what may be asked

class Cart(Top):
    "A cart that wants something."
    items: list[str] = Field(min_length=1, max_length=LARGEST, description=f'a list of 1 to {LARGEST} ids of articles, texts')


# -- what is answered

@bp.get('/frequently_bought_together/<article_id>')
def with_article(article_id):
    "What is bought with an article: in how many baskets (support), how many times as often as by chance (lift), and whether that is evident or only expected."
    recommender = able()
    validate(Article, dict(article_id=article_id), 'path')
    k = validate(Top, query(), 'query').k
    item = recommender.item_index(article_id)
    if item < 0: raise Refused(404, error('path', 'article_id', 'an article of the catalogue'))
    ids, scores = recommender.frequently_bought_together([item], k)
    support, lift = recommender.evidence([item], ids)
    said = answer(recommender, ids[0], scores[0]); evident = (support[0] >= recommender.companions.floor) & (lift[0] > 1)
    for row, n, times, clear in zip(said['recommendations'], support[0], lift[0], evident): row.update(support=int(n), lift=float(times), evident=bool(clear))
    return dict(article_id=article_id, **said)


@bp.post('/complete_the_outfit')
def with_cart():
    "What completes a cart: articles of other garment groups and product types that are bought with it and fit it."
    recommender = able()
    validate(Asked, query(), 'query')
    cart = validate(Cart, body(), 'body')
    items = [recommender.item_index(a) for a in cart.items]
    if min(items) < 0: raise Refused(422, *(error('body', f'items[{n}]', 'an article of the catalogue') for n, i in enumerate(items) if i < 0))
    ids, scores = recommender.complete_the_outfit([items], cart.k)
    return answer(recommender, ids[0], scores[0])


def able() -> Recommender:
    "The recommender. Raises `Refused` if its bundle has no complements."
    recommender = current_app.extensions['recommender']
    if not recommender.can_complement: raise Refused(404, detail='this bundle knows no complements: its run has no stage 47_complements')
    return recommender
