"""What a page may load, and which requests are the shop window's own."""
from urllib.parse import urlsplit

from flask import request

POLICY = "; ".join(("default-src 'none'", "img-src 'self'", "style-src 'self'", "font-src 'self'", "script-src 'self'", "connect-src 'self'",
                    "form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'"))
HEADERS = {'Content-Security-Policy': POLICY, 'X-Content-Type-Options': 'nosniff', 'Referrer-Policy': 'same-origin',
           'Permissions-Policy': 'camera=(), geolocation=(), microphone=()'}


def own_form() -> bool:
    "Does this request come from a page of ours? A browser says so itself; what says nothing is no browser."
    site, origin = request.headers.get('Sec-Fetch-Site'), request.headers.get('Origin')
    if site is not None: return site == 'same-origin'  # sent to trustworthy addresses only: https, and this machine
    return origin is not None and urlsplit(origin).netloc == request.host


def came_from() -> str:
    "Whence somebody came to look at a page: 'here', 'nowhere' (typed, or a bookmark), or 'elsewhere', which also is a page that a browser fetches in advance."
    if request.method != 'GET' or 'prefetch' in request.headers.get('Sec-Purpose', request.headers.get('Purpose', '')): return 'elsewhere'
    if site := request.headers.get('Sec-Fetch-Site'): return {'same-origin': 'here', 'none': 'nowhere'}.get(site, 'elsewhere')
    return 'nowhere' if not request.referrer else 'here' if urlsplit(request.referrer).netloc == request.host else 'elsewhere'
