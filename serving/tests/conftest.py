"""The bundle that is asked, the application over it, and the environment that the service runs in."""
import http.client, json, os, re, shlex, shutil, signal, socket, subprocess, sys, time
from pathlib import Path

import numpy as np, pytest

from recsys_lib.bundle import KINDS, Recommender, build_bundle, manifest_digest
from recsys_lib.core import Run, to_date, write_json
from serving.app import create_app

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='session')
def bundle(tmp_path_factory):
    "The folder of a bundle version: that of `make test`, or one from a scratch run."
    if folder := os.environ.get('LOOKBOOK_BUNDLE'): return Path(folder).resolve()
    from recsys_lib.complements import open_complements
    from recsys_lib.search import open_search
    from recsys_lib.split import open_plan
    run = Run(''); open_search(run)  # before the bundle, which takes towers, vectors and index from the run, and complements
    open_complements(run, open_plan(run).now)
    return build_bundle(run, open_plan(run).now, tmp_path_factory.mktemp('bundle'))


def reseal(folder, manifest):
    "Write a changed manifest with the digest that fits it."
    write_json(folder / 'manifest.json', {**manifest, 'digest': manifest_digest(manifest)})


@pytest.fixture(scope='session')
def recommender(bundle): return Recommender(bundle)


@pytest.fixture(scope='session')
def app(bundle): return create_app(dict(BUNDLE=str(bundle)))


@pytest.fixture
def client(app): return app.test_client()


@pytest.fixture(scope='session')
def customers(recommender): return [recommender.customer_ids[i] for i in range(min(1000, len(recommender.customer_ids)))]


@pytest.fixture(scope='session')
def visitors(recommender):
    "1,000 anonymous histories as a request brings them, of 0 to 40 events, also of articles that were never sold."
    rng, some = np.random.default_rng(0), lambda **fields: {k: v for k, v in fields.items() if rng.random() < .7}
    event = lambda: dict(article_id=recommender.article_ids[int(rng.integers(len(recommender.article_ids)))],
                         **some(date=to_date(recommender.asof - int(rng.integers(-3, 90))), kind=str(rng.choice(list(KINDS))),
                                price=float(rng.random()), channel=int(rng.integers(3))))
    return [dict(items=[event() for _ in range(rng.integers(41))], **some(age=int(rng.integers(16, 90)))) for _ in range(1000)]


@pytest.fixture(scope='session')
def light_python():
    "Python of the environment that `make serve` runs in, with serving/requirements.txt alone."
    environment = {k: v for k, v in os.environ.items() if k not in ('MAKEFLAGS', 'MAKELEVEL', 'MFLAGS', 'PYTHONPATH')}
    subprocess.run(['make', '-s', '.venv-serving/.ready', f'PYTHON={sys.executable}'], cwd=ROOT, env=environment, check=True)
    return ROOT / '.venv-serving/bin/python'


def pairs(ids, scores, recommender):
    "What `Recommender` said of one visitor, as an answer lists it."
    return [(recommender.article_ids[i], float(s)) for i, s in zip(ids, scores) if i >= 0]


def listed(answer): return [(r['article_id'], r['score']) for r in answer['recommendations' if 'recommendations' in answer else 'results']]


def free_port():
    with socket.create_server(('127.0.0.1', 0)) as s: return s.getsockname()[1]


@pytest.fixture(scope='session')
def container(tmp_path_factory):
    "A folder with the files that the container has, and no others."
    folder = tmp_path_factory.mktemp('container')
    for line in re.findall(r'^COPY (?!--from|.*/tmp)(.+)$', (ROOT / 'serving/Dockerfile').read_text(), re.M):
        *sources, target = shlex.split(line); (folder / target).mkdir(exist_ok=True)
        for source in sources:
            for path in ROOT.glob(source): shutil.copy(path, folder / target)
    return folder




def light_environment(bundle):
    return {k: v for k, v in os.environ.items() if not k.startswith(('PYTHON', 'COV_', 'COVERAGE'))} | dict(LOOKBOOK_BUNDLE=str(bundle))


class Server:
    "A running service."
    def __init__(self, python, folder, bundle, log, workers=2, **settings):
        self.port, self.log = free_port(), log
        with open(log, 'w') as output:
            self.process = subprocess.Popen([python, '-m', 'serving', '--port', str(self.port), '--workers', str(workers)], cwd=folder, stdout=output,
                                            stderr=output, env=light_environment(bundle) | settings, start_new_session=True)

    def __enter__(self):
        end = time.monotonic() + 90
        while True:
            try: return self.ask('GET', '/healthz') and self
            except OSError: assert time.monotonic() < end and self.process.poll() is None, self.log.read_text(); time.sleep(.05)

    def __exit__(self, *_):
        if self.alive(): os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def alive(self):
        "Is any process of it left?"
        self.process.poll()
        try: os.killpg(self.process.pid, 0); return True
        except ProcessLookupError: return False

    def connect(self): return http.client.HTTPConnection('127.0.0.1', self.port, timeout=60)

    def ask(self, method, address, body=None, connection=None):
        connection = connection or self.connect()
        connection.request(method, address, body and json.dumps(body), {'Content-Type': 'application/json'} if body else {})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
