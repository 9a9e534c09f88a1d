"""What to recommend, within what was asked for, and why: to a customer, to a visitor by what they did, and beside an article."""
import datetime, re
from typing import Annotated, Literal

import numpy as np
from flask import Blueprint, current_app
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, ValidationInfo, WrapValidator, field_validator
from pydantic_core import PydanticCustomError

from recsys_lib.bundle import KINDS, Recommender
from recsys_lib.core import InputError
from recsys_lib.refine import FILTERED, Filters
from recsys_lib.retrieval import SIMILAR_BY

from .problems import Refused, body, error, query, validate

bp = Blueprint('recommendations', __name__)


# -- what may be asked: a field's description is what a refusal says was expected

def up_to_candidates(k, handler, info: ValidationInfo):
    "k is bounded by what the bundle's ranker looks at."
    most = info.context.retriever.settings.candidates
    if isinstance(k, str) and info.mode != 'json': k = int(k) if re.fullmatch('[0-9]{1,9}', k) else 0  # from the query
    try: k = handler(k)
    except ValidationError: k = 0
    if not 1 <= k <= most: raise PydanticCustomError('range', 'an integer from 1 to {most}', dict(most=most))
    return k


class Asked(BaseModel):
    "What is not declared is refused, and nothing is converted silently."
    model_config = ConfigDict(extra='forbid', strict=True, allow_inf_nan=False)


class Customer(Asked):
    customer_id: str = Field(min_length=1, max_length=256, description='the id of a customer, at most 256 characters')


class Article(Asked):
    article_id: str = Field(min_length=1, max_length=256, description='the id of an article, at most 256 characters')


class Top(Asked):
    k: Annotated[int, WrapValidator(up_to_candidates)] = 12  # so many, best first


class Alike(Top):
    by: Literal[tuple(SIMILAR_BY)] = Field('both', description=f"one of {', '.join(SIMILAR_BY)}")


def texts(values, info, most, what):
    "A list of texts; what a query may say several times comes as lines."
    if isinstance(values, str) and info.mode != 'json': values = values.split('\n')
    if not (isinstance(values, list) and len(values) <= most and all(isinstance(v, str) and len(v) <= 256 for v in values)):
        raise PydanticCustomError('texts', '{expected}', dict(expected=f'a list of at most {most:,} {what}'))
    return values


def known_names(values, info: ValidationInfo):
    "Names are those of the bundle's catalogue."
    names = texts(values, info, 100, 'names')
    try: info.context.catalogue.codes_of(info.field_name, names)
    except InputError as e: raise PydanticCustomError('names', '{expected}', dict(expected=str(e).split(': expected ', 1)[-1]))
    return names


def listed_or_ours(stock, info: ValidationInfo):
    "A shop tells what it has, or asks for what the service was told: `true`."
    if isinstance(stock, str) and info.mode != 'json': stock = {'true': True, 'false': False}.get(stock, stock)
    if stock is True and not current_app.extensions['stock']: raise PydanticCustomError('stock', 'a list of article ids: this service has no list of its own (LOOKBOOK_STOCK)')
    return stock if isinstance(stock, bool) else texts(stock, info, 20_000, 'article ids, or true')


Names = Annotated[list[str], PlainValidator(known_names)]
PRICE = dict(ge=0, le=1e9)


class Filtered(Asked):
    "Which articles may be recommended."
    index_group: Names = []
    section: Names = []
    garment_group: Names = []
    product_type: Names = []
    department: Names = []
    price_min: float | None = Field(None, **PRICE, description='a number from 0 to 1e9, in the unit of the data')
    price_max: float | None = Field(None, **PRICE, description='a number from 0, or from price_min, to 1e9, in the unit of the data')
    exclude_bought: bool = Field(False, description='true or false')
    exclude: Annotated[list[str], PlainValidator(lambda values, info: texts(values, info, 1000, 'article ids'))] = []
    in_stock: Annotated[bool | list[str], PlainValidator(listed_or_ours)] = False

    @field_validator('price_max')
    def not_below(cls, price_max, info):
        if price_max is not None and price_max < (info.data.get('price_min') or 0): raise ValueError
        return price_max

    def filters(self) -> Filters | None:
        "As `Recommender` takes them; None if nothing is asked. Ids that the catalogue does not have are neither in stock nor recommended anyway."
        if not self.model_fields_set & Filtered.model_fields.keys(): return None
        recommender = current_app.extensions['recommender']; index = lambda ids: [i for i in map(recommender.item_index, ids) if i >= 0]
        given = {f: tuple(getattr(self, f)) for f in FILTERED} | {f: getattr(self, f) for f in ('price_min', 'price_max', 'exclude_bought')}
        stock = None if self.in_stock is False else current_app.extensions['stock'].mask() if self.in_stock is True else index(self.in_stock)
        return Filters(**given, in_stock=stock, exclude=index(self.exclude))


class Wish(Asked):
    "How a list should be."
    diversity: float = Field(0., ge=0, le=1, description='a number from 0 to 1')
    explain: bool = Field(False, description='true or false')


class CustomersWish(Filtered, Wish, Top): "In a query, filters are parameters beside the others."


class Event(Article):
    "Something that a visitor did."
    date: datetime.date | None = Field(None, ge=datetime.date(1970, 1, 1), le=datetime.date(2099, 12, 31),  # None: the bundle's
                                       description='a date, YYYY-MM-DD, from 1970 to 2099')
    kind: Literal[tuple(KINDS)] = Field('purchase', description=f"one of {', '.join(KINDS)}")
    price: float | None = Field(None, ge=0, le=1e9, description='a number from 0 to 1e9, in the unit of the data')  # None: the usual one
    channel: int = Field(2, ge=0, le=127, description='an integer from 0 to 127, as in the data')  # H&M: 1 store, 2 online


class Somebody(Top):
    "Somebody known by what they did."
    items: list[Event] = Field(max_length=500, description='a list of at most 500 objects, what the visitor did; of one day the latest last')
    age: float | None = Field(None, ge=0, le=130, description='a number from 0 to 130, in years')


class Visitor(Wish, Somebody):
    filters: Filtered = Field(Filtered(), description='an object')


# -- what is answered

@bp.get('/recommend/<customer_id>')
def for_customer(customer_id):
    "The best articles for a customer; what sells, marked by `known: false`, for one that is not in the bundle."
    recommender = current_app.extensions['recommender']
    validate(Customer, dict(customer_id=customer_id), 'path')
    wish = validate(CustomersWish, query(several=(*FILTERED, 'exclude')), 'query')
    known = recommender.user_index(customer_id) >= 0
    return dict(customer_id=customer_id, known=known, **recommended(recommender, recommender.customers([customer_id]), wish, wish.filters()))


@bp.post('/recommend')
def for_visitor():
    "The best articles for somebody by what they did; `known: false` if none of it says anything."
    recommender = current_app.extensions['recommender']
    validate(Asked, query(), 'query')
    visitor = validate(Visitor, body(), 'body')
    unknown = [n for n, event in enumerate(visitor.items) if recommender.item_index(event.article_id) < 0]
    if unknown: raise Refused(422, *(error('body', f'items[{n}].article_id', 'an article of the catalogue') for n in unknown))
    history = recommender.visitors([[event.model_dump() for event in visitor.items]], [visitor.age])
    return dict(known=bool((history.item >= 0).any()), **recommended(recommender, history, visitor, visitor.filters.filters()))


@bp.get('/similar_items/<article_id>')
def for_article(article_id):
    "Articles like a given one."
    recommender = current_app.extensions['recommender']
    validate(Article, dict(article_id=article_id), 'path')
    asked = validate(Alike, query(), 'query')
    item = recommender.item_index(article_id)
    if item < 0: raise Refused(404, error('path', 'article_id', 'an article of the catalogue'))
    ids, scores = recommender.similar_items([item], asked.k, asked.by)
    return dict(article_id=article_id, **answer(recommender, ids[0], scores[0]))


def recommended(recommender, history, wish, filters):
    "The answer to one visitor, with the reasons if they are wanted."
    ids, scores = recommender.recommend(history, wish.k, None, filters, wish.diversity)
    said = answer(recommender, ids[0], scores[0])
    if wish.explain:
        for about, why in zip(said['recommendations'], recommender.explain(history, ids, None, filters)[0]): about['why'] = reasons(recommender, why)
    return said


def reasons(recommender, why):
    "Why one article is recommended, as it leaves the service."
    named = lambda h: {k: v for k, v in recommender.describe(h['item']).items() if k in ('article_id', 'prod_name')} | {k: h[k] for k in ('kind', 'days', 'pull', 'by')}
    return dict(score=why['score'], sources=why['sources'], history=[named(h) for h in why['history']], features=why['features'])


def answer(
    recommender: Recommender,
    ids: np.ndarray,  # (k,) int32 item_idx, best first, padded with -1
    scores: np.ndarray,  # (k,) float32
) -> dict:
    "Recommendations as they leave the service."
    return dict(bundle=recommender.version, asof=recommender.manifest['asof'], recommendations=listed(recommender, ids, scores))


def listed(recommender, ids, scores):
    "Articles as they leave the service: without padding, and with names."
    return [{'article_id': about.pop('article_id'), 'score': float(s), **about} for i, s in zip(ids, scores) if i >= 0 for about in [recommender.describe(i)]]
