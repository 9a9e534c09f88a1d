"""`make bench-serve`: requests a second and their times, by endpoint, beside a bare Flask route, gunicorn, and FastAPI on uvicorn that calls the same `Recommender`.

Everything runs on this machine, the load generators too. Saturation is measured by wrk, with distinct customers and nothing kept; times at a constant rate by the
clients below, which count from the moment at which a request was due (so that one that waits for another is not forgotten). Ratios hold within one run.
"""
import argparse, asyncio, collections, json, os, re, shutil, signal, socket, subprocess, sys, tempfile, time, urllib.parse, urllib.request
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from recsys_lib.bundle import Bundle

SECONDS, CLIENTS = 8, 16
PEERS = '''
import os
from recsys_lib.bundle import Recommender
from recsys_lib.core import to_date
from serving.front import Front
r = Recommender(os.environ['LOOKBOOK_BUNDLE'], verify=False)
def said(who):
    ids, scores = r.recommend(r.customers([who]))
    return dict(customer_id=who, known=r.user_index(who) >= 0, bundle=r.version, asof=to_date(r.asof), recommendations=[{**r.describe(int(i)), 'score': float(s)} for i, s in zip(ids[0], scores[0])])
def bare():
    from flask import Flask
    app = Flask('bare'); app.add_url_rule('/recommend/<who>', view_func=lambda who: {'status': 'ok'}); app.add_url_rule('/healthz/ready', view_func=lambda: {'status': 'ok'}, endpoint='ready')
    return Front(app, 1024)
def fastapi():
    from fastapi import FastAPI
    app = FastAPI(); app.get('/healthz/ready')(lambda: {'status': 'ok'})
    @app.get('/recommend/{who}')
    def recommend(who: str): return said(who)
    return app
def wsgi():
    from serving.app import create_app
    return create_app()
'''
WRK = '''
local paths = {}
for line in io.lines(os.getenv("PATHS")) do paths[#paths + 1] = line end
local n = 0
request = function() n = n % #paths + 1; return wrk.format("GET", paths[n]) end
'''


class Service:
    "A server in a process group of its own."
    def __init__(self, command, folder, **environment):
        with socket.create_server(('127.0.0.1', 0)) as s: self.port = s.getsockname()[1]
        began = time.perf_counter(); self.log = open(folder / f'{self.port}.log', 'w')
        environment = {**os.environ, 'PYTHONPATH': f'{ROOT}:{folder}', 'OMP_NUM_THREADS': '1', 'OPENBLAS_NUM_THREADS': '1', 'LOOKBOOK_LOG_LEVEL': 'WARNING', 'LOOKBOOK_STATE': str(folder / f'{self.port}'), **environment}
        self.process = subprocess.Popen([c.format(port=self.port) for c in command], cwd=ROOT, env=environment, stdout=self.log, stderr=self.log, start_new_session=True)
        while not self.ready():
            if self.process.poll() is not None or time.perf_counter() - began > 60: raise SystemExit(f'error: {command[0]} did not start:\n' + Path(self.log.name).read_text()[-2000:])
            time.sleep(.02)
        self.seconds = time.perf_counter() - began

    def ready(self):
        try: return urllib.request.urlopen(f'http://127.0.0.1:{self.port}/healthz/ready', timeout=2).status == 200
        except OSError: return False

    def __enter__(self): return self

    def __exit__(self, *_):
        os.killpg(self.process.pid, signal.SIGTERM)
        try: self.process.wait(15)
        except subprocess.TimeoutExpired: os.killpg(self.process.pid, signal.SIGKILL); self.process.wait()

    def private(self):
        "Megabytes that each worker has for itself alone."
        workers = Path(f'/proc/{self.process.pid}/task/{self.process.pid}/children').read_text().split()
        return [sum(int(n) for n in re.findall(r'Private_\w+:\s+(\d+)', Path(f'/proc/{p}/smaps_rollup').read_text())) / 1024 for p in workers]

    def saturated(self, paths, folder, seconds=SECONDS):
        "What wrk says of as many requests as are answered: a second, and milliseconds at the 50th, 95th and 99th of a hundred."
        (folder / 'paths').write_text('\n'.join(paths)); (folder / 'wrk.lua').write_text(WRK + 'done = function(s, l) io.write(string.format("FOUND %d %d %d %f %f %f\\n", s.requests, s.duration, s.errors.status + s.errors.connect + s.errors.read + s.errors.timeout, l:percentile(50), l:percentile(95), l:percentile(99))) end\n')
        done = subprocess.run(['wrk', '-t1', f'-c{CLIENTS}', f'-d{seconds}s', '-s', str(folder / 'wrk.lua'), f'http://127.0.0.1:{self.port}'], env={**os.environ, 'PATHS': str(folder / 'paths')}, capture_output=True, text=True, check=True)
        n, duration, errors, *times = map(float, re.search('FOUND (.*)', done.stdout)[1].split())
        if errors: raise SystemExit(f'error: {int(errors)} requests failed:\n{done.stdout}\n' + Path(self.log.name).read_text()[-2000:])
        return dict(rate=n / duration * 1e6, **{f'p{p}': t / 1000 for p, t in zip((50, 95, 99), times)})

    def at_rate(self, requests, rate, seconds=SECONDS):
        "Milliseconds from when each request was due, at a constant rate."
        return asyncio.run(constant(self.port, requests, rate, seconds))

    def steps(self):
        "Seconds and number of what the metrics call steps and requests, so far."
        text = urllib.request.urlopen(f'http://127.0.0.1:{self.port}/metrics').read().decode(); out = {}
        for name, kind, label, value in re.findall(r'lookbook_(step|request)_seconds_(sum|count)\{(?:step|endpoint)="([^"]+)"\} (\S+)', text): out.setdefault((name, label), {})[kind] = float(value)
        return out


async def constant(port, requests, rate, seconds):
    "An open loop over connections that stay open and take turns, as many clients do: which worker has a connection is the kernel's choice."
    idle, times, wrong = collections.deque([await asyncio.open_connection('127.0.0.1', port) for _ in range(2 * CLIENTS)]), [], []
    async def one(n, due):
        reader, writer = idle.popleft() if idle else await asyncio.open_connection('127.0.0.1', port)
        writer.write(requests[n % len(requests)]); head = await reader.readuntil(b'\r\n\r\n')
        await reader.readexactly(int(re.search(rb'content-length: (\d+)', head.lower())[1])); times.append(1000 * (time.perf_counter() - due)); idle.append((reader, writer))
        if b' 200 ' not in head[:15]: wrong.append(head)
    start, tasks = time.perf_counter(), []
    for n in range(int(rate * seconds)):
        due = start + n / rate; await asyncio.sleep(max(0, due - time.perf_counter())); tasks.append(asyncio.create_task(one(n, due)))
    await asyncio.gather(*tasks)
    for _, writer in idle: writer.close()
    if wrong: raise SystemExit(f'error: {len(wrong)} requests failed: {wrong[0][:300]}')
    return dict(rate=rate, **{f'p{p}': float(np.percentile(times, p)) for p in (50, 95, 99)})


def get(path): return f'GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n'.encode()


def post(path, body):
    data = json.dumps(body).encode()
    return f'POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n'.encode() + data


def row(name, found): print(f"| {name} | {found['rate']:,.0f} | {found['p50']:.1f} | {found['p95']:.1f} | {found['p99']:.1f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(); parser.add_argument('bundle'); parser.add_argument('--seconds', type=int, default=SECONDS); given = parser.parse_args()
    if not shutil.which('wrk'): raise SystemExit('error: wrk is missing: apt-get install wrk')
    folder = Path(tempfile.mkdtemp(prefix='bench-serve-')); (folder / 'peers_of_serving.py').write_text(PEERS)
    bundle = Bundle(given.bundle); rng = np.random.default_rng(0); n = len(bundle.customer_ids)
    customers = [bundle.customer_ids[int(u)] for u in rng.permutation(n)[:20_000]]; articles = [bundle.article_ids[int(i)] for i in rng.permutation(len(bundle.article_ids))[:5000]]
    words = [f"{bundle.describe(i).get('colour_group_name', '')} {bundle.describe(i).get('product_type_name', 'dress')}".strip() for i in map(bundle.item_index, articles[:1000])]
    os.environ['LOOKBOOK_BUNDLE'] = str(Path(given.bundle).resolve()); recommend = [f'/recommend/{c}' for c in customers]; python = sys.executable
    print(f"{len(bundle.article_ids):,} articles, {n:,} customers, {bundle.settings.candidates} candidates, {bundle.manifest['trees']} trees, {os.cpu_count()} cores, the load generator on the same; {CLIENTS} connections, {given.seconds} s each\n")
    ours = [python, '-m', 'serving', '--port', '{port}', '--workers', '2']
    print('| at saturation | requests a second | p50 ms | p95 | p99 |\n|---|---|---|---|---|')
    with Service(ours, folder, LOOKBOOK_CACHE_MB='0', LOOKBOOK_DEMO='1') as service:
        ready = service.seconds; service.saturated(recommend, folder, 4); before = service.steps()  # the pages of the files are mapped by then
        found = service.saturated(recommend, folder, given.seconds); row('Lookbook, /recommend, distinct customers, nothing kept', found); saturated = found['rate']
        after = service.steps(); memory = service.private()
        for name, paths in (('/similar_items', [f'/similar_items/{a}' for a in articles]), ('/search?q=', [f'/search?q={urllib.parse.quote(w)}' for w in words]), ('/frequently_bought_together', [f'/frequently_bought_together/{a}' for a in articles]), ('/items', [f'/items/{a}' for a in articles])):
            row(f'Lookbook, {name}, nothing kept', service.saturated(paths, folder, given.seconds))
    with Service(ours, folder, LOOKBOOK_CACHE_MB='64') as service:
        few = recommend[:200]; service.saturated(few, folder, 3); row('Lookbook, /recommend, kept answers', service.saturated(few, folder, given.seconds))
    peers = {'gunicorn, two workers of one thread, the same application': [python, '-m', 'gunicorn', '-w', '2', '-k', 'gthread', '--threads', '1', '-b', '127.0.0.1:{port}', 'peers_of_serving:wsgi()'],
             'FastAPI on uvicorn, two workers, the same Recommender': [python, '-m', 'uvicorn', '--factory', 'peers_of_serving:fastapi', '--workers', '2', '--port', '{port}', '--log-level', 'warning'],
             'a bare Flask route behind granian': [python, '-m', 'granian', '--interface', 'rsgi', '--factory', 'peers_of_serving:bare', '--workers', '2', '--port', '{port}', '--no-ws', '--log-level', 'warning']}
    for name, command in peers.items():
        with Service(command, folder, LOOKBOOK_CACHE_MB='0') as service: service.saturated(recommend, folder, 4); found = service.saturated(recommend, folder, given.seconds); row(name, found); print(f'  {saturated / found["rate"]:.2f} times of it', file=sys.stderr)
    print('\n| at a constant rate | requests a second | p50 ms | p95 | p99 |\n|---|---|---|---|---|')
    with Service(ours, folder, LOOKBOOK_CACHE_MB='0', LOOKBOOK_DEMO='1') as service:
        service.at_rate([get(p) for p in recommend], 200, 4); service.at_rate([get(f'/search?q={urllib.parse.quote(w)}') for w in words], 20, 2)
        row('/recommend', service.at_rate([get(p) for p in recommend], 300, given.seconds))
        row('/search?q=', service.at_rate([get(f'/search?q={urllib.parse.quote(w)}') for w in words], 50, given.seconds))
        events = [post('/events', dict(events=[dict(customer_id=c, article_id=a, kind='click')])) for c, a in zip(customers, articles)]
        row('/recommend of a visitor with five clicks (POST)', service.at_rate([post('/recommend', dict(items=[dict(article_id=a, kind='view') for a in articles[i:i + 5]])) for i in range(1000)], 100, given.seconds))
        start = time.perf_counter()
        for e in events[:200]:
            with socket.create_connection(('127.0.0.1', service.port)) as s: s.sendall(e); assert b' 202 ' in s.recv(4096)[:20]
        print(f'| /events, one after the other | {200 / (time.perf_counter() - start):,.0f} | | | |')
    print('\n| where a worker spends its time for a request of /recommend at saturation | ms |\n|---|---|')
    spent = lambda key: 1000 * (after[key]['sum'] - before.get(key, dict(sum=0))['sum']); number = lambda key: after[key]['count'] - before.get(key, dict(count=0))['count']
    whole = next(key for key in after if key[0] == 'request' and key[1].endswith('for_customer')); n = number(whole); steps = {key[1]: spent(key) / n for key in sorted(after) if key[0] == 'step' and number(key) > 100}
    for step, ms in steps.items(): print(f'| {step} | {ms:.2f} |')
    print(f'| all else: the request read, checked, its events looked up, the answer sent, and the load generator beside it | {2000 / saturated - sum(steps.values()):.2f} |\n| all told (2 workers) | {2000 / saturated:.2f} |')
    print(f"\nWorked out together: {n / number(('step', 'ranker')):.1f} requests at a time. From the request read to the answer ready, waiting included: {spent(whole) / n:.1f} ms.")
    print(f'\nFrom start to ready: {ready:.1f} s. Private memory of the workers: {", ".join(f"{m:.0f}" for m in memory)} MB.')
    shutil.rmtree(folder)


if __name__ == '__main__': main()
