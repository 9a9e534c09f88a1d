"""What to recommend: to a customer, to a visitor by what they did, and beside an article."""
import datetime, re
from typing import Annotated, Literal

import numpy as np
from flask import Blueprint, current_app
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, WrapValidator
from pydantic_core import PydanticCustomError

from recsys_lib.bundle import KINDS, Recommender
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


class Event(Article):
    "Something that a visitor did."
    date: datetime.date | None = Field(None, ge=datetime.date(1970, 1, 1), le=datetime.date(2099, 12, 31),  # None: the bundle's
                                       description='a date, YYYY-MM-DD, from 1970 to 2099')
    kind: Literal[tuple(KINDS)] = Field('purchase', description=f"one of {', '.join(KINDS)}")
    price: float | None = Field(None, ge=0, le=1e9, description='a number from 0 to 1e9, in the unit of the data')  # None: the usual one
    channel: int = Field(2, ge=0, le=127, description='an integer from 0 to 127, as in the data')  # H&M: 1 store, 2 online


class Visitor(Top):
    "Somebody known by what they did."
    items: list[Event] = Field(max_length=500, description='a list of at most 500 objects, what the visitor did; of one day the latest last')
    age: float | None = Field(None, ge=0, le=130, description='a number from 0 to 130, in years')


# -- what is answered

@bp.get('/recommend/<customer_id>')
def for_customer(customer_id):
    "The best articles for a customer; what sells, marked by `known: false`, for one that is not in the bundle."
    recommender = current_app.extensions['recommender']
    validate(Customer, dict(customer_id=customer_id), 'path')
    k = validate(Top, query(), 'query').k
    ids, scores = recommender.recommend(recommender.customers([customer_id]), k)
    known = recommender.user_index(customer_id) >= 0
    return dict(customer_id=customer_id, known=known, **answer(recommender, ids[0], scores[0]))


@bp.post('/recommend')
def for_visitor():
    "The best articles for somebody by what they did; `known: false` if none of it says anything."
    recommender = current_app.extensions['recommender']
    validate(Asked, query(), 'query')
    visitor = validate(Visitor, body(), 'body')
    unknown = [n for n, event in enumerate(visitor.items) if recommender.item_index(event.article_id) < 0]
    if unknown: raise Refused(422, *(error('body', f'items[{n}].article_id', 'an article of the catalogue') for n in unknown))
    history = recommender.visitors([[event.model_dump() for event in visitor.items]], [visitor.age])
    ids, scores = recommender.recommend(history, visitor.k)
    return dict(known=bool((history.item >= 0).any()), **answer(recommender, ids[0], scores[0]))


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
