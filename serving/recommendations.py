"""What to recommend, within what was asked for, and why: to a customer, to a visitor by what they did, and beside an article."""
import datetime, re
from typing import Annotated, Literal

import numpy as np
from flask import Blueprint, current_app, g
from pydantic import AfterValidator, BaseModel, Field, PlainValidator, ValidationError, ValidationInfo, WithJsonSchema, WrapValidator, field_validator
from pydantic_core import PydanticCustomError

from recsys_lib.bundle import KINDS, Recommender
from recsys_lib.core import InputError
from recsys_lib.refine import FILTERED, Filters
from recsys_lib.retrieval import SIMILAR_BY

from .access import with_key
from .bundles import recommender
from .contract import route
from .problems import Asked, Refused, error

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


class Customer(Asked):
    customer_id: str = Field(min_length=1, max_length=256, description='the id of a customer, at most 256 characters')


class Article(Asked):
    article_id: str = Field(min_length=1, max_length=256, description='the id of an article, at most 256 characters')


class Top(Asked):
    k: Annotated[int, WrapValidator(up_to_candidates), WithJsonSchema(dict(type='integer', minimum=1, description='so many, best first; at most what the ranker looks at'))] = 12


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
    except InputError as e: raise PydanticCustomError('names', '{expected}', dict(expected=str(e).split(': expected ', 1)[-1])) from None
    return names


def listed_or_ours(stock, info: ValidationInfo):
    "A shop tells what it has, or asks for what the service was told: `true`."
    if isinstance(stock, str) and info.mode != 'json': stock = {'true': True, 'false': False}.get(stock, stock)
    if stock is True and not current_app.extensions['stock']: raise PydanticCustomError('stock', 'a list of article ids: this service has no list of its own (LOOKBOOK_STOCK)')
    return stock if isinstance(stock, bool) else texts(stock, info, 20_000, 'article ids, or true')


def schema_of_list(most): return WithJsonSchema(dict(type='array', items=dict(type='string', maxLength=256), maxItems=most))


Names = Annotated[list[str], PlainValidator(known_names), schema_of_list(100)]
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
    exclude: Annotated[list[str], PlainValidator(lambda values, info: texts(values, info, 1000, 'article ids')), schema_of_list(1000)] = []
    in_stock: Annotated[bool | list[str], PlainValidator(listed_or_ours), WithJsonSchema(dict(anyOf=[dict(type='boolean'), dict(type='array', items=dict(type='string', maxLength=256), maxItems=20_000)]))] = False

    @field_validator('price_max')
    def not_below(cls, price_max, info):
        if price_max is not None and price_max < (info.data.get('price_min') or 0): raise ValueError
        return price_max

    def filters(self) -> Filters | None:
        "As `Recommender` takes them; None if nothing is asked. Ids that the catalogue does not have are neither in stock nor recommended anyway."
        if not self.model_fields_set & Filtered.model_fields.keys(): return None
        index = lambda ids: [i for i in map(recommender().item_index, ids) if i >= 0]
        given = {f: tuple(getattr(self, f)) for f in FILTERED} | {f: getattr(self, f) for f in ('price_min', 'price_max', 'exclude_bought')}
        stock = None if self.in_stock is False else current_app.extensions['stock'].mask(recommender()) if self.in_stock is True else index(self.in_stock)
        return Filters(**given, in_stock=stock, exclude=index(self.exclude))


class Wish(Asked):
    "How a list should be."
    diversity: float = Field(0., ge=0, le=1, description='a number from 0 to 1')
    explain: bool = Field(False, description='true or false; of a customer by id for holders of a key, and in demo mode')


class CustomersWish(Filtered, Wish, Top): "In a query, filters are parameters beside the others."


class Beside(Filtered, Top): "Filters are parameters beside the others; nobody asks, so that there is nothing bought to exclude."


class Alike(Beside):
    by: Literal[tuple(SIMILAR_BY)] = Field('both', description=f"one of {', '.join(SIMILAR_BY)}")


def not_ahead(day):
    "Nobody has done anything yet that is dated after tomorrow (somewhere it is that already): all that they did would look ages old beside it."
    if day > datetime.date.today() + datetime.timedelta(1): raise ValueError
    return day


Day = Annotated[datetime.date, Field(ge=datetime.date(1970, 1, 1)), AfterValidator(not_ahead)]
DAY = 'a date, YYYY-MM-DD, from 1970 to tomorrow'


class Event(Article):
    "Something that a visitor did."
    date: Day | None = Field(None, description=DAY)  # None: the bundle's
    kind: Literal[tuple(KINDS)] = Field('purchase', description=f"one of {', '.join(KINDS)}")
    price: float | None = Field(None, ge=0, le=1e9, description='a number from 0 to 1e9, in the unit of the data')  # None: the usual one
    channel: int = Field(2, ge=0, le=127, description='an integer from 0 to 127, as in the data')  # H&M: 1 store, 2 online


class Somebody(Top):
    "Somebody known by what they did."
    items: list[Event] = Field(max_length=500, description='a list of at most 500 objects, what the visitor did; of one day the latest last')
    age: float | None = Field(None, ge=0, le=130, description='a number from 0 to 130, in years')


class Visitor(Wish, Somebody):
    filters: Filtered = Field(Filtered(), description='an object')


class Judge(Asked):
    "A visitor and articles to be scored for them: a customer by id, or somebody by what they did."
    customer_id: str | None = Field(None, min_length=1, max_length=256, description='the id of a customer, at most 256 characters')
    items: list[Event] = Field([], max_length=500, description='a list of at most 500 objects, what the visitor did; of one day the latest last')
    candidates: list[str] = Field(min_length=1, max_length=500, description='a list of ids of articles, texts, as many as the ranker looks at')
    age: float | None = Field(None, ge=0, le=130, description='a number from 0 to 130, in years')

    @field_validator('candidates')
    def bounded(cls, candidates, info: ValidationInfo):
        if len(candidates) > (most := info.context.settings.candidates): raise PydanticCustomError('many', 'a list of 1 to {most} ids of articles', dict(most=most))
        return candidates


# -- what is answered

class Named(BaseModel):
    "An article. Of its names, those that the catalogue has."
    article_id: str
    prod_name: str = ''
    product_type_name: str = ''
    colour_group_name: str = ''
    department_name: str = ''
    index_group_name: str = ''


class Listed(Named):
    "An article of a list."
    score: float


class Source(BaseModel):
    source: str
    words: str
    score: float
    rank: int | None


class Pull(BaseModel):
    article_id: str
    prod_name: str = ''
    kind: str
    days: float
    pull: float
    by: dict[str, float]


class Moved(BaseModel):
    feature: str
    words: str
    value: float
    effect: float


class Reasons(BaseModel):
    "Sources that proposed an article, what in the history pulled it, the features that moved its score most."
    score: float
    sources: list[Source]
    history: list[Pull]
    features: list[Moved]


class Explained(Listed):
    why: Reasons = None


class Answer(BaseModel):
    bundle: str
    asof: str


class List(Answer):
    recommendations: list[Listed]


class ForVisitor(Answer):
    known: bool  # whether anything is known of them
    recommendations: list[Explained]


class ForCustomer(ForVisitor):
    customer_id: str
    events: str = ''  # 'unavailable' where what the visitor did lately could not be read


class Score(BaseModel):
    article_id: str
    score: float | None  # null for what was never sold


class Scores(Answer):
    known: bool
    scores: list[Score]  # in the order in which they were asked for


class ForArticle(List):
    article_id: str


@route(bp, 'GET', '/recommend/<id:customer_id>', path=Customer, query=CustomersWish, several=(*FILTERED, 'exclude'), answer=ForCustomer, kept=True)
def for_customer(customer, wish):
    "The best articles for a customer, or for a visitor whose events came in; what sells, marked by `known: false`, for one of whom nothing is known."
    if wish.explain: with_key()  # reasons name what a customer did, as their profile does
    asked = recommender(); events = current_app.extensions['events'].of(customer.customer_id)
    known = asked.user_index(customer.customer_id) >= 0
    if known: current_app.extensions['bundles'].asked.append(customer.customer_id)
    said = recommended(asked, asked.customers([customer.customer_id], events=[events]), wish, wish.filters())
    if g.get('unsure'): said['events'] = 'unavailable'
    return dict(customer_id=customer.customer_id, known=known or bool(events), **said)


@route(bp, 'POST', '/recommend', body=Visitor, answer=ForVisitor)
def for_visitor(visitor):
    "The best articles for somebody by what they did; `known: false` if none of it says anything."
    asked, events = recommender(), in_catalogue(visitor.items)
    history = asked.visitors([events], [visitor.age])
    return dict(known=bool((history.item >= 0).any()), **recommended(asked, history, visitor, visitor.filters.filters()))


@route(bp, 'POST', '/predict', body=Judge, answer=Scores)
def predict(judge):
    "Scores of given articles for a visitor, beside each other: they order these articles, and compare with those of the same answer alone."
    asked, events = recommender(), in_catalogue(judge.items); items = [asked.item_index(a) for a in judge.candidates]
    if min(items) < 0: raise Refused(422, *(error('body', f'candidates[{n}]', 'an article of the catalogue') for n, i in enumerate(items) if i < 0))
    if judge.customer_id is not None: history = asked.customers([judge.customer_id], events=[current_app.extensions['events'].of(judge.customer_id) + events])
    else: history = asked.visitors([events], [judge.age])
    scores = asked.predict(history, np.array([items]))[0]; known = bool((history.item >= 0).any())
    return dict(known=known, bundle=asked.version, asof=asked.manifest['asof'], scores=[dict(article_id=a, score=float(s) if np.isfinite(s) else None) for a, s in zip(judge.candidates, scores)])


@route(bp, 'GET', '/similar_items/<id:article_id>', path=Article, query=Alike, several=(*FILTERED, 'exclude'), answer=ForArticle, refuses=(404,), kept=True)
def for_article(article, asked):
    "Articles like a given one: by look, by the behaviour of customers, or by both."
    ids, scores = recommender().similar_items([number(article)], asked.k, asked.by, allowed(asked))
    return dict(article_id=article.article_id, **answer(recommender(), ids[0], scores[0]))


def allowed(filtered):
    "What passes filters, whoever asks: (items,) bool, or None for everything."
    mask = recommender().allowed(recommender().customers(['']), None, filtered.filters())
    return None if mask is None else mask.reshape(-1)


def number(article):
    "An article's place in the catalogue. Raises `Refused` for one that it does not have."
    item = recommender().item_index(article.article_id)
    if item < 0: raise Refused(404, error('path', 'article_id', 'an article of the catalogue'))
    return item


def in_catalogue(events, place='items'):
    "What somebody did, as `Recommender` takes it. Raises `Refused` for articles that the catalogue does not have."
    unknown = [n for n, event in enumerate(events) if recommender().item_index(event.article_id) < 0]
    if unknown: raise Refused(422, *(error('body', f'{place}[{n}].article_id', 'an article of the catalogue') for n in unknown))
    return [event.model_dump() for event in events]


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
    return [{**recommender.describe(int(i)), 'score': float(s)} for i, s in zip(ids, scores) if i >= 0]
