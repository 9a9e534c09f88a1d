"""What Prometheus reads: how long answers and their steps take, what went wrong, which sources the recommended articles came from."""
import os, time
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
from flask import Blueprint, Response, g, request
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

from recsys_lib.bundle import Watch

from .contract import route

bp = Blueprint('metrics', __name__)
CAME = 'lookbook.came'  # in the environ: when a request was there, whole; before it waited for others
BUCKETS = (.0005, .001, .002, .003, .005, .0075, .01, .015, .025, .05, .1, .25, 1, 5)  # seconds
LATENCY = Histogram('lookbook_request_seconds', 'From the request read to the answer ready', ['endpoint'], buckets=BUCKETS)
STEPS = Histogram('lookbook_step_seconds', 'Steps inside an answer, or inside the answers that were worked out together', ['step'], buckets=(.00005, .0001, .0002, *BUCKETS))
BATCH = Histogram('lookbook_batch_visitors', 'Visitors whose recommendations were worked out together', buckets=(1, 2, 3, 4, 6, 8))
ANSWERS = Counter('lookbook_answers', 'Answers by endpoint and status', ['endpoint', 'status'])
SOURCES = Counter('lookbook_source_articles', 'Recommended articles by a source that proposed them; one that several proposed counts for each', ['source'])
EMPTY = Counter('lookbook_empty_answers', 'Answers to visitors without any article')
UNSURE = Counter('lookbook_unsure_answers', 'Answers without the events of the visitor, because their store was away')
SERVING = Gauge('lookbook_bundle', 'Workers that answer from a bundle', ['bundle'], multiprocess_mode='livesum')
LOOKED_UP = Counter('lookbook_kept_answers', 'Answers that were looked up among those kept', ['found'])
# A child is found by its labels once: what is looked up for each request is this.
latency, step_time, source_count, looked_up = (cache(m.labels) for m in (LATENCY, STEPS, SOURCES, LOOKED_UP))
answer_count = cache(ANSWERS.labels)


class Watching(Watch):
    "Times the steps, and counts the sources of what is recommended."
    @contextmanager
    def step(self, name):
        start = time.perf_counter()
        try: yield
        finally: step_time(name).observe(time.perf_counter() - start)

    def answered(self, candidates, ids):
        proposed = candidates.proposed[(candidates.ids[:, :, None] == ids[:, None]).any(2) & (candidates.ids >= 0)]
        if empty := int((ids < 0).all(1).sum()): EMPTY.inc(empty)
        for name, n in zip(self.sources, (proposed[:, None] >> np.arange(len(self.sources), dtype=np.uint32) & 1).sum(0).tolist()):
            if n: source_count(name).inc(n)
        BATCH.observe(len(ids))

    def __init__(self, sources=()): self.sources = tuple(sources)


def serving(version, before):
    "Note which bundle this worker answers from."
    if before: SERVING.labels(before).set(0)
    SERVING.labels(version).set(1)


def forget_the_dead():
    "A worker that was killed serves nothing any more; its counts stay."
    folder = os.environ.get('PROMETHEUS_MULTIPROC_DIR')
    for pid in {int(p.stem.rpartition('_')[2]) for p in Path(folder).glob('gauge_live*.db')} if folder else ():
        if not Path(f'/proc/{pid}').exists(): multiprocess.mark_process_dead(pid)


@route(bp, 'GET', '/metrics', answer=None, media='text/plain')
def metrics():
    "Counters and histograms of all workers, for Prometheus."
    registry = REGISTRY
    if 'PROMETHEUS_MULTIPROC_DIR' in os.environ: registry = CollectorRegistry(); multiprocess.MultiProcessCollector(registry)
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


def init_app(app):
    "Time and count every request of an application."
    app.register_blueprint(bp)

    @app.before_request
    def start(): g.start = request.environ.get(CAME) or time.perf_counter()

    @app.after_request
    def count(response):
        endpoint = request.endpoint or 'none'
        if 'start' in g: latency(endpoint).observe(time.perf_counter() - g.start)
        answer_count(endpoint, response.status_code).inc()
        if g.get('unsure'): UNSURE.inc()
        return response
