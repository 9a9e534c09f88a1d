"""What is known of a customer. It is nobody else's business: open to holders of a key, and in demo mode."""
import numpy as np
from flask import Blueprint, current_app
from pydantic import BaseModel, Field

from recsys_lib.explain import KIND_NAMES
from recsys_lib.refine import FILTERED
from recsys_lib.retrieval import PURCHASE, USER_COLUMNS

from .access import with_key
from .bundles import recommender
from .catalogue import shortest
from .contract import route
from .problems import Asked, Refused
from .recommendations import Customer

bp = Blueprint('profiles', __name__)
bp.before_request(with_key)
FAVOURITES = 5  # names told of each attribute


# -- what may be asked

class Several(Asked):
    k: int = Field(12, ge=1, le=100, strict=False, description='an integer from 1 to 100')


# -- what is answered

class Done(BaseModel):
    "Something that a customer did."
    article_id: str
    prod_name: str = ''
    kind: str
    days: float  # before the newest thing that is known
    price: float


class Share(BaseModel):
    name: str
    share: float  # of what was bought, viewed and put in the cart


class Prices(BaseModel):
    "Of what was bought, in the unit of the data: the middle, and where the middle half lies."
    median: float
    low: float
    high: float


class Profile(BaseModel):
    customer_id: str
    known: bool
    age: float | None
    history: list[Done]  # newest first
    taste: dict[str, list[Share]]
    price: Prices | None


class SomeCustomers(BaseModel):
    customers: list[str]


@route(bp, 'GET', '/user_profile/<id:customer_id>', path=Customer, answer=Profile)
def profile(customer):
    "What a customer did, as far back as recommendations look, and what that says of their taste."
    r = recommender(); events = current_app.extensions['events'].of(customer.customer_id)
    h = r.customers([customer.customer_id], events=[events]); there = h.item[0] >= 0; items, kinds, prices = (getattr(h, f)[0][there] for f in ('item', 'kind', 'price'))
    done = [dict(r.describe(int(i)), kind=KIND_NAMES[int(k)], days=float(d), price=shortest(p)) for i, k, d, p in zip(items, kinds, h.age[0][there], prices)]
    paid = prices[(kinds == PURCHASE) & (prices > 0)]; quartiles = np.percentile(paid, (25, 50, 75)) if len(paid) else None
    age = float(h.user[0][USER_COLUMNS.index('age')])
    return dict(customer_id=customer.customer_id, known=bool(there.any()) or r.user_index(customer.customer_id) >= 0, age=None if np.isnan(age) else age, history=done,
                taste={a: shares(r.catalogue.names[a], r.catalogue.codes[a][items]) for a in FILTERED},
                price=None if quartiles is None else dict(zip(('low', 'median', 'high'), map(float, quartiles))))


def shares(names, codes):
    "The most frequent names, and their shares."
    codes, n = np.unique(codes[codes >= 0], return_counts=True); order = np.lexsort((codes, -n))[:FAVOURITES]
    return [dict(name=names[codes[i]], share=float(n[i] / n.sum())) for i in order]


@route(bp, 'GET', '/customers', query=Several, answer=SomeCustomers, kept=True)
def some(asked):
    "Some customers of whom much is known, for demonstrations. Open in demo mode alone."
    if not current_app.extensions['settings'].demo: raise Refused(403, detail='closed: this service is not in demo mode (LOOKBOOK_DEMO)')
    r = recommender(); bought = np.diff(r.histories.indptr); longest = np.lexsort((np.arange(len(bought)), -bought))[:asked.k]
    return dict(customers=[r.customer_ids[int(u)] for u in longest])
