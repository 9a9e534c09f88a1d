"""The application: its settings, the bundle it answers from, its routes, and what it says when something is wrong."""
import gc, tempfile

from flask import Flask

from . import access, admin, catalogue, complements, contract, events, health, logs, metrics, problems, profiles, recommendations, search, shop
from .bundles import Bundles
from .front import Front
from .kept import Kept
from .settings import read_settings, state_folder
from .stock import Stock


def create_app(test_config=None):
    "A Flask application over one bundle, with settings that stand before those of the environment. Raises `InputError` if one is wrong, or the bundle is missing or damaged."
    settings = read_settings({k.lower(): v for k, v in (test_config or {}).items()})
    app = Flask(__name__, static_folder=None)  # the shop window has its own
    app.request_class = search.UploadRequest
    app.config.from_mapping({k.upper(): v for k, v in settings if k not in ('api_keys', 'jwt_secret', 'admin_key')})
    app.json.sort_keys = app.json.ensure_ascii = False
    app.url_map.converters['id'] = contract.Id
    app.url_map.merge_slashes = False  # would answer with a redirect, in HTML
    app.extensions['settings'] = settings
    own = None if settings.state else tempfile.TemporaryDirectory(prefix='lookbook-state-')  # goes when the application goes
    state = state_folder(settings.state or own.name); app.extensions['own'] = own
    app.extensions['watch'] = metrics.Watching()
    app.extensions['bundles'] = Bundles(settings.bundle, state, metrics.Watching, metrics.serving)
    app.extensions['events'] = events.Events(events.InRedis(settings.redis_url) if settings.redis_url else events.Embedded(state / 'events.sqlite', settings.events_mb))
    app.extensions['stock'] = Stock(settings.stock, app.extensions['bundles'].recommender)
    app.extensions['kept'] = Kept(settings.cache_mb)
    problems.init_app(app); logs.init_app(app); metrics.init_app(app); access.init_app(app); contract.init_app(app)
    for part in (health, recommendations, complements, search, catalogue, profiles, events, admin): app.register_blueprint(part.bp)
    shop.init_app(app)
    return app


def serve() -> Front:
    "The application of a worker, as granian calls it: it writes JSON lines, and follows the link to the bundle."
    app = create_app(); settings = app.extensions['settings']
    logs.to_json(settings.log_level); metrics.forget_the_dead()
    app.extensions['bundles'].follow(settings.watch_seconds)
    gc.collect(); gc.freeze()  # what is there by now stays: no request waits for a look through all of it
    return Front(app, max(settings.max_content_length, settings.max_image_bytes))
