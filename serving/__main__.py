"""`python -m serving`: the service behind granian, as `make serve` and the container start it."""
import argparse, os, shutil, socket, sys, tempfile

# Workers are what runs side by side; inside one, every library keeps to one thread. Read when the libraries are loaded.
for threads in ('OPENBLAS_NUM_THREADS', 'OMP_NUM_THREADS'): os.environ.setdefault(threads, '1')

from granian import Granian
from granian.constants import Interfaces

from recsys_lib.core import InputError

from .bundles import Bundles
from .settings import read_settings, state_folder
from .stock import Stock


def options(argv=None):
    "What the command line says."
    parser = argparse.ArgumentParser(prog='python -m serving', description='Answers from the bundle in LOOKBOOK_BUNDLE.')
    parser.add_argument('--host', default='127.0.0.1', help='address to listen at (default: %(default)s)')
    parser.add_argument('--port', type=int, default=8000, help='(default: %(default)s)')
    parser.add_argument('--workers', type=int, default=min(4, len(os.sched_getaffinity(0))), help='processes (default: one a core, at most 4)')
    return parser.parse_args(argv)


def check_address(host, port):
    "Raises `InputError` if nobody can listen there, or somebody does: granian would share the port with them."
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    try: socket.create_server((host, port), family=family).close()
    except (OSError, OverflowError) as e: raise InputError(f'{host}:{port}: cannot listen there ({getattr(e, "strerror", None) or e})') from None


def main(argv=None):
    "Serve until SIGTERM. What is wrong with the address, a setting or the bundle is told in one line, exit code 2."
    given = options(argv); own = None
    try:
        check_address(given.host, given.port)
        settings = read_settings({})
        if not settings.state: own = os.environ['LOOKBOOK_STATE'] = tempfile.mkdtemp(prefix='lookbook-state-')  # of all workers
        state = state_folder(settings.state or own)
        (state / 'serving').unlink(missing_ok=True)  # of an earlier service: this one starts from a good bundle, or not at all
        counters = state / 'metrics'; shutil.rmtree(counters, ignore_errors=True); counters.mkdir()
        os.environ['PROMETHEUS_MULTIPROC_DIR'] = str(counters)  # read when prometheus_client is imported, which the workers do
        Stock(settings.stock, Bundles(settings.bundle, state).recommender)  # verified here, so that the workers need not
    except InputError as e:
        print(f'error: {e}', file=sys.stderr)
        return 2
    # A worker that dies is started anew: it answers from the bundle that its siblings answer from, also where the link is on a bad one by now.
    try:
        Granian('serving.app:serve', factory=True, interface=Interfaces.RSGI, websockets=False, address=given.host, port=given.port, workers=given.workers,
                workers_kill_timeout=10, respawn_failed_workers=True, respawn_interval=.5, log_level='warning').serve()
    finally:
        if own: shutil.rmtree(own, ignore_errors=True)


if __name__ == '__main__': sys.exit(main())
