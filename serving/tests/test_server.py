"""The service as it is run: in its own small environment, from the container's files, behind granian."""
import io, json, os, re, shutil, signal, socket, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

import serving.__main__ as entry
from recsys_lib.search import MODES

from .conftest import ROOT, Server, free_port, light_environment, listed, pairs

HEAVY = {'torch', 'torchvision', 'lightgbm', 'pandas', 'implicit', 'nbdev', 'fastcore', 'scipy', 'sklearn', 'ibis', 'duckdb', 'pyarrow', 'onnx', 'matplotlib', 'wandb', 'papermill', 'open_clip'}
ASK = '''
import json, sys
from importlib.metadata import distributions
from serving.app import create_app
client = create_app().test_client()
health, answers = client.get('/healthz').json, [client.get(f'/recommend/{c}').json for c in sys.argv[1:]]
found = [client.get('/search', query_string=dict(q='Striped dress in light blue', mode=mode)).json for mode in ('both', 'words', 'meaning')] if health['search'] else []
import serving.__main__
print(json.dumps([health, answers, found, sorted({m.partition('.')[0] for m in sys.modules}), {d.metadata['Name']: d.version for d in distributions()}]))
'''


def plain(name): return re.sub('[-_.]+', '-', name).lower()


def pinned(path): return {plain(name): version for name, version in re.findall('^([A-Za-z0-9_.-]+)==(.+)$', path.read_text(), re.M)}


def test_the_light_environment_is_enough(light_python, container, bundle, recommender, customers):
    "It holds what serving/requirements.txt lists and nothing else, and gives the same answers to the bit."
    asked = customers[:20] + ['nobody']
    done = subprocess.run([light_python, '-c', ASK, *asked], cwd=container, env=light_environment(bundle), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    health, answers, found, modules, installed = json.loads(done.stdout)
    assert health['status'] == 'ok' and not HEAVY & set(modules)
    assert {plain(n): v for n, v in installed.items() if n not in ('pip', 'setuptools')} == pinned(ROOT / 'serving/requirements.txt')
    ids, scores = recommender.recommend(recommender.customers(asked))
    for answer, *row in zip(answers, ids, scores): assert listed(answer) == pairs(*row, recommender)
    for mode, answer in zip(MODES, found): assert listed(answer) == pairs(*(x[0] for x in recommender.search(['Striped dress in light blue'], mode=mode)), recommender)


def test_the_pins_are_those_of_the_lock():
    lock = pinned(ROOT / 'requirements.txt')
    for name, version in pinned(ROOT / 'serving/requirements.txt').items(): assert lock[name] == version, name


def test_the_dockerfile_is_clean():
    "It cannot be built where these tests run; its steps are those of `make serve`, which are tested, and its form is what hadolint approves of."
    done = subprocess.run([Path(sys.executable).with_name('hadolint'), ROOT / 'serving/Dockerfile'], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


# -- behind granian

def test_many_at_once_then_sigterm(light_python, container, bundle, recommender, customers, visitors, tmp_path):
    "Several hundred requests from eight threads are answered as if asked one by one; SIGTERM ends all processes, cleanly."
    asked = [('GET', f'/recommend/{c}', None) for c in customers[:200]] + [('POST', '/recommend', v) for v in visitors[:200]]
    ids, scores = recommender.recommend(recommender.customers(customers[:200]))
    by_visit, their = recommender.recommend(recommender.visitors([v['items'] for v in visitors[:200]], [v.get('age') for v in visitors[:200]]))
    expected = [pairs(*row, recommender) for row in [*zip(ids, scores), *zip(by_visit, their)]]
    with Server(light_python, container, bundle, tmp_path / 'log') as server:
        def several(part):
            connection = server.connect()
            return [server.ask(*asked[n], connection) for n in part]
        parts = [range(start, len(asked), 8) for start in range(8)]
        with ThreadPoolExecutor(8) as threads: answers = dict((n, a) for part, got in zip(parts, threads.map(several, parts)) for n, a in zip(part, got))
        for n, wanted in enumerate(expected): assert answers[n][0] == 200 and listed(answers[n][1]) == wanted
        assert server.ask('GET', '/nope')[0] == 404 and server.ask('POST', '/recommend', dict(items=3))[0] == 422
        connection = server.connect(); connection.request('GET', '/metrics'); text = connection.getresponse().read().decode()  # of both workers, whichever answers
        counted = lambda endpoint, status: float(re.search(rf'^lookbook_answers_total{{endpoint="recommendations.{endpoint}",status="{status}"}} (\S+)', text, re.M)[1])
        assert (counted('for_customer', 200), counted('for_visitor', 200), counted('for_visitor', 422)) == (200, 200, 1)
        assert f'lookbook_bundle{{bundle="{recommender.version}"}} 2.0' in text
        idle = server.connect(); server.ask('GET', '/healthz', connection=idle)  # kept open: must not keep the service from ending
        os.kill(server.process.pid, signal.SIGTERM)
        assert server.process.wait(60) == 0, server.log.read_text()
        end = time.monotonic() + 30
        while server.alive(): assert time.monotonic() < end, 'a worker is left'; time.sleep(.05)
        with pytest.raises(OSError): server.ask('GET', '/healthz')
    assert 'Traceback' not in server.log.read_text() and 'ERROR' not in server.log.read_text()


@pytest.mark.parametrize('chunked', [False, True])
def test_images_behind_granian(light_python, container, bundle, recommender, tmp_path, chunked):
    "An upload of any size that fits, with or without a length; one that does not fit is refused, and the service goes on."
    if not recommender.can_search: pytest.skip('a bundle without search')
    held = io.BytesIO(); Image.new('RGB', (400, 500), 'navy').save(held, 'PNG'); image = held.getvalue(); ids, scores = recommender.search_image([image])
    def upload(server, data):
        body = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + data + b'\r\n--x--\r\n'; connection = server.connect()
        connection.request('POST', '/search/image', iter([body[i:i + 65536] for i in range(0, len(body), 65536)]) if chunked else body, {'Content-Type': 'multipart/form-data; boundary=x'}, encode_chunked=chunked)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    with Server(light_python, container, bundle, tmp_path / 'log', workers=1) as server:
        for padding in (0, 4_000_000):
            status, answer = upload(server, image + bytes(padding))
            assert status == 200 and listed(answer) == pairs(ids[0], scores[0], recommender)
        for length in (9_000_000, 30_000_000):  # the client sends all of it, and hears why it was in vain
            status, answer = upload(server, bytes(length)); assert status == 413 and answer['errors'][0]['field'] == 'body'
        assert server.ask('GET', '/search?q=dress')[0] == 200
    assert 'Traceback' not in server.log.read_text()


def test_a_bad_bundle_ends_with_one_line(light_python, container, bundle, tmp_path):
    "Exit code 2, not a worker that is started again and again; `make serve` likewise."
    copy = tmp_path / 'bundle'; shutil.copytree(bundle, copy)
    path = copy / 'pool.npy'; data = bytearray(path.read_bytes()); data[-1] ^= 1; path.write_bytes(data)
    done = subprocess.run([light_python, '-m', 'serving', '--port', str(free_port())], cwd=container, env=light_environment(copy), capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (2, '') and re.fullmatch(r'error: .*/pool.npy: altered; .*\n', done.stderr)
    environment = {k: v for k, v in light_environment(copy).items() if k not in ('MAKEFLAGS', 'MAKELEVEL')}
    made = subprocess.run(['make', '-s', 'serve', f'BUNDLE={os.path.relpath(copy, ROOT)}', f'PORT={free_port()}', f'PYTHON={sys.executable}'], cwd=ROOT, env=environment,
                          capture_output=True, text=True, timeout=60)
    assert made.returncode == 2 and done.stderr in made.stderr and 'granian' not in made.stdout + made.stderr


def test_what_the_command_line_gets_wrong(bundle, monkeypatch, capsys):
    monkeypatch.setenv('LOOKBOOK_BUNDLE', str(bundle))
    with socket.create_server(('127.0.0.1', 0)) as taken:
        assert entry.main(['--port', str(taken.getsockname()[1])]) == 2
    assert entry.main(['--port', '70000']) == entry.main(['--host', 'no such host']) == entry.main(['--host', 'fe80::1:2:3:4:5:6:7']) == 2
    monkeypatch.setenv('LOOKBOOK_BUNDLE', str(bundle / 'nope'))
    assert entry.main(['--port', str(free_port())]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5 and all(line.startswith('error: ') for line in lines) and 'in use' in lines[0] and 'not a bundle' in lines[4]
