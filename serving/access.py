"""Who may ask: keys, signed tokens, networks, rates, other sites' pages. All of it is off until it is set; /admin is closed until it is."""
import hmac, ipaddress, math, time

import jwt, limits
from flask import current_app, g, request
from limits.storage import storage_from_string
from limits.strategies import FixedWindowRateLimiter
from werkzeug.middleware.proxy_fix import ProxyFix

from .problems import Refused, error

OPEN = {'health.live', 'health.ready', 'contract.openapi', 'swagger_ui.show'}  # answered without a key
INSIDE = 'lookbook.inside'  # in the environ of a request that the shop window makes within this process; no client can set it


def same(given: str, keys) -> bool: return any([hmac.compare_digest(given.encode(), k.encode()) for k in keys])  # all are compared: the time tells nothing


def who() -> 'str | None':
    "The key or the subject of the token that a request brings, if it is a good one."
    settings = current_app.extensions['settings']
    given = request.headers.get('X-API-Key', ''); token = request.headers.get('Authorization', '')
    if given and same(given, settings.api_keys): return given
    if settings.jwt_secret and token.startswith('Bearer '):
        try: return str(jwt.decode(token[7:], settings.jwt_secret, algorithms=['HS256'], options=dict(require=['exp', 'sub']))['sub'])
        except jwt.PyJWTError: pass
    return None


def with_key():
    "For what is open to holders of a key alone, whether the service asks for one elsewhere or not; in demo mode it is open. Raises `Refused`."
    if not current_app.extensions['settings'].demo and g.get('who') is None: raise refused('X-API-Key', 'a key of this service')


def as_admin():
    "For /admin. Raises `Refused`."
    key = current_app.extensions['settings'].admin_key
    if not key: raise Refused(403, detail='closed: this service was started without LOOKBOOK_ADMIN_KEY')
    if not same(request.headers.get('X-Admin-Key', ''), [key]): raise refused('X-Admin-Key', 'the key in LOOKBOOK_ADMIN_KEY')


def refused(header, expected): return Refused(401, error('header', header, expected))


def init_app(app):
    "Ask every request of an application what it may."
    settings = app.extensions['settings']; networks = [ipaddress.ip_network(n) for n in settings.networks]
    if settings.proxies: app.wsgi_app = ProxyFix(app.wsgi_app, x_for=settings.proxies, x_proto=settings.proxies)
    if settings.cors:
        from flask_cors import CORS
        CORS(app, origins=settings.cors, allow_headers=['Content-Type', 'X-API-Key', 'Authorization', 'X-Request-ID'], expose_headers=['X-Request-ID'])
    rate = settings.rate_limit and limits.parse(settings.rate_limit)
    limiter = rate and FixedWindowRateLimiter(storage_from_string(settings.redis_url or 'memory://'))
    closed = bool(settings.api_keys or settings.jwt_secret)

    @app.before_request
    def check():
        if request.environ.get(INSIDE): g.who = 'shop window'; return
        if networks and not any(address_of(request) in n for n in networks): raise Refused(403, detail='this address is not among those that are answered (LOOKBOOK_NETWORKS)')
        g.who = who()
        if closed and g.who is None and request.method != 'OPTIONS' and request.endpoint not in OPEN: raise refused('X-API-Key', 'a key of this service' + (', or a token in Authorization' if settings.jwt_secret else ''))
        if limiter and request.endpoint not in OPEN and not allowed(limiter, rate, whose := g.who or request.remote_addr or ''):
            raise Refused(429, detail=f'too many requests: expected at most {rate}', again=max(1, math.ceil(limiter.get_window_stats(rate, whose).reset_time - time.time())))


def address_of(request):
    try: return ipaddress.ip_address(request.remote_addr or '')
    except ValueError: return ipaddress.ip_address('0.0.0.0')


def allowed(limiter, rate, who) -> bool:
    "Is there room? A store of counts that is away lets everybody in."
    try: return limiter.hit(rate, who)
    except Exception: current_app.logger.warning('rates are not counted: their store is away'); return True
