"""One line of JSON for what happens, with the id of the request that it belongs to. Ids of customers stay out of it."""
import logging, re, sys, time, uuid

from flask import g, has_request_context, request
from pythonjsonlogger.json import JsonFormatter

access = logging.getLogger('lookbook.access')


class WithRequest(logging.Filter):
    "Adds the request's id to a record."
    def filter(self, record):
        if has_request_context(): record.request = g.get('request_id')
        return True


def to_json(level: str):
    "Let all loggers of this process write JSON lines to standard error."
    handler = logging.StreamHandler(sys.stderr); handler.addFilter(WithRequest())
    handler.setFormatter(JsonFormatter('%(asctime)s %(levelname)s %(name)s %(message)s', rename_fields=dict(asctime='time', levelname='level', name='logger', message='event')))
    root = logging.getLogger(); root.handlers[:] = [handler]; root.setLevel(level)
    for name in ('_granian', 'granian.access'): logging.getLogger(name).handlers.clear(); logging.getLogger(name).propagate = True


def init_app(app):
    "Give each request an id, the client's own if it brings a sane one, and a line in the log."
    @app.before_request
    def identify():
        theirs = request.headers.get('X-Request-ID', '')
        g.request_id, g.began = (theirs if re.fullmatch('[A-Za-z0-9._-]{1,64}', theirs) else uuid.uuid4().hex), time.perf_counter()

    @app.after_request
    def line(response):
        response.headers['X-Request-ID'] = g.get('request_id', '')
        if access.isEnabledFor(logging.INFO):
            access.info('request', extra=dict(method=request.method, endpoint=request.endpoint, status=response.status_code, milliseconds=round(1000 * (time.perf_counter() - g.began), 2) if 'began' in g else None))
        return response
