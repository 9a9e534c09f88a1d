"""That the service lives, that it is ready, and what it answers from."""
from flask import Blueprint, current_app
from pydantic import BaseModel

from .bundles import recommender
from .contract import route

bp = Blueprint('health', __name__, url_prefix='/healthz')


class Fine(BaseModel):
    status: str


class RefusedBundle(BaseModel):
    bundle: str
    why: str


class Health(Fine):
    bundle: str
    asof: str
    customers: int
    items: int
    search: bool
    search_images: bool  # and texts by their meaning
    complements: bool
    previous: str | None
    refused: RefusedBundle | None  # a bundle that was offered since and does not answer


@route(bp, 'GET', '', answer=Health)
def healthz():
    "What this worker answers from."
    r, bundles = recommender(), current_app.extensions['bundles']
    return dict(status='ok', bundle=r.version, asof=r.manifest['asof'], customers=len(r.customer_ids), items=len(r.article_ids), search=r.can_search, search_images=r.can_search_images, complements=r.can_complement,
                previous=bundles.previous and bundles.previous.version, refused=bundles.refused)


@route(bp, 'GET', '/live', answer=Fine)
def live():
    "That the process answers."
    return dict(status='ok')


@route(bp, 'GET', '/ready', answer=Fine)
def ready():
    "That a bundle is open, verified and warm: a worker does not listen before."
    return dict(status='ok')
