"""What goes together: with an article, and with a cart."""
import numpy as np
from flask import Blueprint
from pydantic import Field

from recsys_lib.bundle import Recommender
from recsys_lib.refine import FILTERED

from .bundles import recommender
from .contract import route
from .problems import Refused, error
from .recommendations import Article, Beside, Filtered, ForArticle, List, Listed, Top, allowed, answer, number

bp = Blueprint('complements', __name__)
LARGEST = 100  # articles of a cart


# -- what may be asked

class Cart(Top):
    "A cart that wants something."
    items: list[str] = Field(min_length=1, max_length=LARGEST, description=f'a list of 1 to {LARGEST} ids of articles, texts')
    filters: Filtered = Field(Filtered(), description='an object')


# -- what is answered

class Companion(Listed):
    support: int  # baskets that had both
    lift: float  # how many times as often as by chance
    evident: bool  # whether the baskets say so, or it is only expected


class Companions(ForArticle):
    recommendations: list[Companion]


@route(bp, 'GET', '/frequently_bought_together/<id:article_id>', path=Article, query=Beside, several=(*FILTERED, 'exclude'), answer=Companions, refuses=(404,), kept=True)
def with_article(article, asked):
    "What is bought with an article: in how many baskets (support), how many times as often as by chance (lift), and whether that is evident or only expected."
    able_one = able(); item = number(article)
    ids, scores = able_one.frequently_bought_together([item], asked.k, allowed=within(able_one, asked))
    support, lift = able_one.evidence([item], ids)
    said = answer(able_one, ids[0], scores[0]); evident = (support[0] >= able_one.companions.floor) & (lift[0] > 1)
    for row, n, times, clear in zip(said['recommendations'], support[0], lift[0], evident): row.update(support=int(n), lift=float(times), evident=bool(clear))
    return dict(article_id=article.article_id, **said)


@route(bp, 'POST', '/complete_the_outfit', body=Cart, answer=List, refuses=(404,))
def with_cart(cart):
    "What completes a cart: articles of other garment groups and product types that are bought with it and fit it."
    able_one = able(); items = [able_one.item_index(a) for a in cart.items]
    if min(items) < 0: raise Refused(422, *(error('body', f'items[{n}]', 'an article of the catalogue') for n, i in enumerate(items) if i < 0))
    ids, scores = able_one.complete_the_outfit([items], cart.k, allowed=within(able_one, cart.filters))
    return answer(able_one, ids[0], scores[0])


def within(recommender, filtered):
    "What passes filters, over the whole catalogue: what was never sold passes none. None for everything."
    mask = allowed(filtered)
    return None if mask is None else np.pad(mask, (0, recommender.companions.outfit.terms.n_items - len(mask)))


def able() -> Recommender:
    "The recommender. Raises `Refused` if its bundle has no complements."
    if not recommender().can_complement: raise Refused(404, detail='this bundle knows no complements: its run has no stage 47_complements')
    return recommender()
