"""The application: configuration, the bundle it answers from, and what it says when something is wrong."""
import os

from flask import Flask, current_app
from PIL import Image

from recsys_lib.bundle import Recommender
from recsys_lib.core import InputError

from . import complements, problems, recommendations, search
from .stock import Stock


def create_app(test_config=None):
    "A Flask application over one bundle. Raises `InputError` if the bundle is missing or damaged."
    app = Flask(__name__, static_folder=None)
    app.request_class = search.UploadRequest
    app.config.from_mapping(
        BUNDLE=os.environ.get('LOOKBOOK_BUNDLE', ''),  # folder of a bundle version, or a link to one
        STOCK=os.environ.get('LOOKBOOK_STOCK', ''),  # file with the ids of the articles in stock, one a line; '' for none
        MAX_CONTENT_LENGTH=256 * 1024,  # bytes of a request's body
        MAX_ITEMS=500,  # things that a visitor did, in one request
        MAX_IMAGE_BYTES=8 * 1024 * 1024,  # bytes of a request's body that brings an image
        MAX_PIXELS=20_000_000,  # of an image; decoded, one with transparency takes 16 bytes each for a moment
    )
    app.config.from_mapping(test_config or {})
    app.json.sort_keys = app.json.ensure_ascii = False
    app.url_map.merge_slashes = False  # would answer with a redirect, in HTML
    problems.init_app(app)
    app.extensions['recommender'] = open_recommender(app.config['BUNDLE'])
    app.extensions['stock'] = Stock(app.config['STOCK'], app.extensions['recommender'])
    app.register_blueprint(recommendations.bp)
    app.register_blueprint(search.bp)
    app.register_blueprint(complements.bp)
    app.add_url_rule('/healthz', view_func=healthz)
    return app


def open_recommender(folder):
    "The verified bundle in a folder, after its first answer. Raises `InputError`."
    if not folder: raise InputError('LOOKBOOK_BUNDLE is not set: expected the folder of a bundle, or a link to it')
    recommender = Recommender(folder)
    recommender.recommend(recommender.customers(['']), k=1)  # the first answer is slow: not a visitor's
    if recommender.can_search: recommender.search(['dress'], 1); recommender.search_image([Image.new('RGB', (8, 8))], 1)
    if recommender.can_complement: recommender.complete_the_outfit([[0]], 1)
    return recommender


def healthz():
    "That the service answers, and from what."
    recommender = current_app.extensions['recommender']
    return dict(status='ok', bundle=recommender.version, asof=recommender.manifest['asof'],
                customers=len(recommender.customer_ids), items=len(recommender.article_ids), search=recommender.can_search)
