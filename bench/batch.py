"""`make bench-batch`: recommendations for all customers of a run's bundle, beside implicit's ALS on the same customers, in one run.

The bundle does candidates, features and trees and leaves out nothing; the peer multiplies factors and takes the best twelve. What a customer costs is told in
processor time by step, which a busy machine changes little, and by the clock on all cores. Peak memory is of the whole process after the bundle's turn.
"""
import argparse, os, sys, tempfile, time
from pathlib import Path

import numpy as np


def steps(recommender, users, chunk=512):
    "Processor time of one customer by step, ms."
    from recsys_lib.retrieval import run_graph
    took = dict(candidates=0., ranker=0.)
    for some in np.split(users, range(chunk, len(users), chunk)):
        history = recommender.histories.batch(some, recommender.asof, recommender.settings.history)
        start = time.process_time(); found = recommender.candidates(history); took['candidates'] += time.process_time() - start
        start = time.process_time(); run_graph(recommender.session, ['score'], found, history); took['ranker'] += time.process_time() - start
    return {name: 1000 * t / len(users) for name, t in took.items()}


def peer(recommender, users, threads):
    "Customers a second of implicit's ALS, its factors learned before the clock starts."
    import implicit
    from scipy.sparse import csr_matrix
    from threadpoolctl import threadpool_limits
    h = recommender.histories; n = len(recommender.arrays['price'])
    C = csr_matrix((np.ones(len(h.item), np.float32), np.array(h.item), np.array(h.indptr)), shape=(len(h), n))  # copies: the bundle's are mapped, and implicit wants to write
    with threadpool_limits(1, 'blas'):
        model = implicit.als.AlternatingLeastSquares(factors=64, iterations=2, num_threads=threads, use_gpu=False, random_state=0); model.fit(C, show_progress=False)
        start = time.perf_counter()
        for some in np.split(users, range(512, len(users), 512)): model.recommend(some, C[some], N=12, filter_already_liked_items=False)
    return len(users) / (time.perf_counter() - start)


def main():
    from recsys_lib.batch import recommend_everybody
    from recsys_lib.bundle import Recommender
    from recsys_lib.core import peak_memory_mb
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0]); parser.add_argument('bundle', help='folder of a bundle'); given = parser.parse_args()
    if not (Path(given.bundle) / 'manifest.json').exists(): sys.exit(f"error: no bundle at {given.bundle}; `make run` with the same DATA and PROFILE makes it")
    recommender = Recommender(given.bundle); n = len(recommender.customer_ids)
    some = np.sort(np.random.default_rng(0).permutation(n)[:4096]); each = steps(recommender, some)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter(); recommend_everybody(recommender, folder, workers=os.cpu_count()); rate = n / (time.perf_counter() - start)
        size = sum(p.stat().st_size for p in Path(folder).rglob('*.parquet')) / 1e6
    peak = peak_memory_mb()
    print(f"{len(recommender.arrays['price']):,} articles, {n:,} customers, {recommender.settings.candidates} candidates, {recommender.manifest['trees']} trees, {os.cpu_count()} cores")
    for name, ms in {**each, 'both': sum(each.values())}.items(): print(f"  {name:<12} {ms:8.3f} ms of processor time a customer, one thread")
    print(f"  everybody    {rate:8,.0f} customers a second, {size:.1f} MB of Parquet, peak memory {peak:,.0f} MiB")
    theirs = peer(recommender, some, os.cpu_count())
    print(f"  implicit ALS {theirs:8,.0f} customers a second (factors only, nothing ranked); ratio {rate / theirs:.2f}")


if __name__ == '__main__': main()
