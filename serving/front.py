"""Between granian and Flask: a request is read to its end before it takes the worker's one thread, so that slow clients wait for themselves alone.

granian's own WSGI reads a body inside that thread: a client that sends a byte a minute would stop the worker.
"""
import asyncio, io, sys, time

from .batching import aside
from .metrics import CAME

SECONDS = 20  # for a body to come in
LEFT = 16  # times what is read of a body: so much more is passed over, for a client that is answered while it still sends sees a broken connection


class Front:
    "An RSGI application (granian's interface) around a WSGI one (PEP 3333)."
    def __init__(self,
        app,  # WSGI
        most: int,  # bytes of a body; of a longer one so many are read that the application sees that it is too long
    ):
        self.app, self.most = app, most

    async def __rsgi__(self, scope, protocol):
        if scope.proto != 'http': return protocol.close(1000)
        headers = list(scope.headers.items()); named = {k.lower(): v for k, v in headers}
        body = b''
        if scope.method not in ('GET', 'HEAD') or 'content-length' in named or 'transfer-encoding' in named:
            try: body = await asyncio.wait_for(self.read(protocol), SECONDS)
            except (asyncio.TimeoutError, OSError, RuntimeError): return protocol.response_empty(408, [('connection', 'close')])
        status, out, content = await aside(self.answer, self.environ(scope, headers, named, body) | {CAME: time.perf_counter()})
        protocol.response_bytes(status, out, content)

    async def read(self, protocol) -> bytes:
        parts, n = [], 0
        async for part in protocol:
            if n <= self.most: parts.append(part)
            n += len(part)
            if n > LEFT * self.most: break
        return b''.join(parts)

    def environ(self, scope, headers, named, body) -> dict:
        host, _, port = scope.server.rpartition(':')
        environ = {'REQUEST_METHOD': scope.method, 'SCRIPT_NAME': '', 'PATH_INFO': scope.path.encode().decode('latin-1'), 'QUERY_STRING': scope.query_string, 'SERVER_NAME': host or 'localhost',
                   'SERVER_PORT': port or '0', 'SERVER_PROTOCOL': 'HTTP/' + scope.http_version, 'REMOTE_ADDR': scope.client.rpartition(':')[0].strip('[]'), 'wsgi.version': (1, 0), 'wsgi.url_scheme': scope.scheme,
                   'wsgi.input': io.BytesIO(body), 'wsgi.input_terminated': True, 'wsgi.errors': sys.stderr, 'wsgi.multithread': False, 'wsgi.multiprocess': True, 'wsgi.run_once': False}
        for name, value in headers:
            key = 'HTTP_' + name.upper().replace('-', '_')
            if key in ('HTTP_CONTENT_TYPE', 'HTTP_CONTENT_LENGTH'): key = key[5:]
            environ[key] = f'{environ[key]},{value}' if key in environ else value
        return environ

    def answer(self, environ):
        said = []
        def start(status, headers, exc_info=None): said[:] = [int(status[:3]), [(k.lower(), v) for k, v in headers]]; return said.append
        parts = self.app(environ, start)
        try: content = b''.join(parts)
        finally:
            if hasattr(parts, 'close'): parts.close()
        return said[0], said[1], b'' if environ['REQUEST_METHOD'] == 'HEAD' else content
