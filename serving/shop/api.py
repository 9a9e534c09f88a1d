"""The public API, asked from within this process: the pages know nothing that another program could not know."""
from dataclasses import dataclass
from urllib.parse import quote

from flask import current_app, request
from werkzeug.test import Client, TestResponse

from ..access import INSIDE

CLOSED = (401, 403, 404)  # what this service does not have, or does not show


@dataclass(frozen=True)
class Answer:
    "What a route said."
    response: TestResponse

    @property
    def status(self) -> int: return self.response.status_code
    @property
    def ok(self) -> bool: return self.status < 300
    @property
    def missing(self) -> bool: return self.status in CLOSED
    @property
    def said(self) -> dict: return (self.response.get_json(silent=True) if self.response.is_json else None) or {}
    @property
    def rows(self) -> list: return self.said.get('recommendations') or self.said.get('results') or []
    @property
    def errors(self) -> list: return self.said.get('errors') or []
    @property
    def detail(self) -> str: return self.said.get('detail') or f'The service answered {self.status}.'


def ask(
    method: str,
    *address: str,  # its parts, as they are: ask('GET', 'items', '0108775015')
    parameters: list = (),  # (name, value) pairs for after the question mark
    json=None,  # a body
    forward: bool = False,  # the body of the request that is answered here, as it came and unread: the route checks it
) -> Answer:
    "The answer of one of the service's own routes, which goes through everything that a request from outside goes through."
    with current_app.app_context():  # what the route notes of its request (`g`) is not this page's
        return Answer(Client(current_app.wsgi_app, use_cookies=False).open(
            '/' + '/'.join(quote(part, safe='') for part in address), method=method, base_url=request.host_url, query_string=query(parameters),
            json=json, environ_overrides={INSIDE: True, 'REMOTE_ADDR': request.remote_addr or ''} | (body() if forward else {}), buffered=True))


def body() -> dict: return {k: request.environ[k] for k in ('wsgi.input', 'wsgi.input_terminated', 'CONTENT_LENGTH', 'CONTENT_TYPE') if k in request.environ}


def query(parameters) -> str:
    "What stands after the question mark."
    return '&'.join(f'{quote(name)}={quote(str(value))}' for name, value in parameters)
