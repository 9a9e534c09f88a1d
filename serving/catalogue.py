"""One article and its picture, what the filters take, and the lists that are the same for everybody."""
from os.path import isfile  # which takes a name that is too long for no file
from pathlib import Path

import numpy as np
from flask import Blueprint, current_app, send_file, url_for
from pydantic import BaseModel

from recsys_lib.refine import FILTERED

from .bundles import recommender
from .contract import route
from .problems import Refused
from .recommendations import Article, Beside, List, Named, answer, number

bp = Blueprint('catalogue', __name__)
DAY = 24 * 60 * 60  # seconds
PICTURES = {'.jpg': 'image/jpeg', '.jpeg': 'image/jpeg', '.png': 'image/png', '.webp': 'image/webp'}  # the endings that `clip.IMAGES` learns from


# -- what is answered

class Item(Named):
    "An article, with all that the catalogue says of it."
    section_name: str = ''
    garment_group_name: str = ''
    graphical_appearance_name: str = ''
    detail_desc: str = ''
    price: float | None  # the usual one, in the unit of the data; null for what was never sold
    image: str | None  # its address; null where there is none


def shortest(price: np.float32) -> float:
    "73.69, and not 73.69000244140625, which is the same as a float32."
    return float(str(price))


class Filterable(BaseModel):
    "The names that filters take, and the highest price."
    index_group: list[str]
    section: list[str]
    garment_group: list[str]
    product_type: list[str]
    department: list[str]
    price_max: float


@route(bp, 'GET', '/items/<id:article_id>', path=Article, answer=Item, refuses=(404,), kept=True)
def item(article):
    "What is known of an article."
    r, i = recommender(), number(article); prices = r.arrays['price']
    price = shortest(prices[i]) if i < len(prices) and prices[i] > 0 else None
    return dict(article_id=article.article_id, **{c: t[i] for c, t in r.text.items()}, price=price, image=url_for('catalogue.image', article_id=article.article_id) if picture(article.article_id) else None)


@route(bp, 'GET', '/items/<id:article_id>/image', path=Article, answer=None, media='image/*', refuses=(404,))
def image(article):
    "The picture of an article."
    number(article); found = picture(article.article_id)
    if found is None: raise Refused(404, detail='there is no picture of this article')
    return send_file(found, mimetype=PICTURES[found.suffix.lower()], max_age=DAY)


def picture(article_id):
    "The file of an article's picture, such as 012/0123456789.jpg in the folder of images; None if there is none."
    folder = current_app.config['IMAGES']
    if not folder or article_id in ('', '..') or Path(article_id).name != article_id: return None  # an id may hold anything, and must not lead out of the folder
    paths = (Path(folder).resolve() / article_id[:3] / f'{article_id}{suffix}' for name in PICTURES for suffix in (name, name.upper()))
    return next((path for path in paths if isfile(path)), None)


@route(bp, 'GET', '/filters', answer=Filterable, kept=True)
def filters():
    "The names that filters take."
    there = recommender().catalogue
    return dict({a: sorted({n for n in there.names[a] if n}) for a in FILTERED}, price_max=shortest(np.max(there.price, initial=0)))


@route(bp, 'GET', '/trending', query=Beside, several=(*FILTERED, 'exclude'), answer=List, kept=True)
def trending(asked):
    "What sells."
    return top('popularity', asked)


@route(bp, 'GET', '/new_in', query=Beside, several=(*FILTERED, 'exclude'), answer=List, kept=True)
def new_in(asked):
    "What nobody has bought yet, by the sales that its look and its texts let expect."
    return top('newcomers', asked)


def top(source, asked):
    ids, scores = recommender().top(source, asked.k, asked.filters())
    return answer(recommender(), ids[0], scores[0])
