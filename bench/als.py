"""`make bench-als`: time to equal loss of ALS, implicit (its default, three steps of conjugate gradients a row; and exact solves) beside torch, in one run.

The target is the loss that implicit's default reaches in `--iterations` sweeps; what a model takes until it is at or below it counts, from a given matrix to factors. The loss is looked at after every sweep,
off the clock. Every model has a process of its own; CPU time is what to read on a machine that others use, wall time on two threads.
"""
import argparse, contextlib, json, os, resource, subprocess, sys, tempfile, time
from pathlib import Path

WAYS = 'implicit, CG', 'implicit, exact', 'torch', 'torch, no momentum'


class Reached(Exception): "The loss is at the target."


def measure(matrix, way, factors, threads, sweeps, device, target):
    "Seconds (wall, CPU) and loss after each sweep, until the loss is at the target, and peak memory: after the first, before the loss is looked at, which takes memory of its own."
    import implicit, scipy.sparse as sp, torch
    from threadpoolctl import threadpool_limits
    from recsys_lib.als import TorchALS, als_loss
    torch.set_num_threads(threads); C, rows, paused, peak = sp.load_npz(matrix), [], [0., 0.], []
    def look(X, Y):
        now = time.perf_counter(), time.process_time()
        if not peak: peak.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        rows.append((now[0] - start[0] - paused[0], now[1] - start[1] - paused[1], als_loss(C, X, Y, 1.)))
        if rows[-1][2] <= target: raise Reached
        paused[0] += time.perf_counter() - now[0]; paused[1] += time.process_time() - now[1]
    if way.startswith('torch'):
        model = TorchALS(factors, iterations=sweeps, device=device, **(dict(momentum=0.) if 'no momentum' in way else {}), **(dict(budget=50_000_000) if device != 'cpu' else {}))
        fit = lambda: model.fit(C, lambda i, X, Y: look(X, Y))
    else:
        model = implicit.als.AlternatingLeastSquares(factors, regularization=1., alpha=1., iterations=sweeps, random_state=42, use_gpu=False, use_cg='CG' in way, num_threads=threads)
        def fit():
            with threadpool_limits(1, 'blas'): model.fit(C, show_progress=False, callback=lambda *_: look(model.user_factors, model.item_factors))
    with contextlib.suppress(Reached):
        start = time.perf_counter(), time.process_time(); fit()
    return dict(rows=rows, peak=peak[0])


def matrix_of(data, scale, customers, folder):
    "The confidence matrix of a folder in the Kaggle layout, or of a twin, cut to some customers."
    import numpy as np, scipy.sparse as sp
    from recsys_lib.als import confidence_matrix
    from recsys_lib.data import Dataset, ingest
    from recsys_lib.twin import draw_twin
    if not data: data = folder / 'raw'; draw_twin(data, scale, n_images=0)
    ingest(data, folder / 'data'); dataset = Dataset(folder / 'data')
    C = confidence_matrix(dataset, dataset.meta['last_day'] + 1)
    if customers and customers < C.shape[0]:
        C = C[np.sort(np.random.default_rng(0).choice(C.shape[0], customers, replace=False))]; C = C[:, np.flatnonzero(C.getnnz(0))]
    sp.save_npz(folder / 'matrix.npz', C)
    n = np.diff(C.indptr)
    print(f"{C.shape[0]:,} customers, {C.shape[1]:,} articles, {C.nnz:,} pairs; a customer has {n.mean():.1f}, half of them at most {np.median(n):.0f}", flush=True)
    return folder / 'matrix.npz'


def main(given):
    with tempfile.TemporaryDirectory() as tmp:
        matrix = given.matrix or matrix_of(given.data, given.scale, given.customers, Path(tmp))
        print(f"{'':<22}{'factors':>8}{'threads':>8}{'sweeps':>8}{'wall, s':>9}{'CPU, s':>9}{'times as fast, wall':>21}{'CPU':>6}{'peak, MiB':>11}")
        for factors in given.factors:
            for threads in given.threads:
                base, target = None, 0.
                for way in WAYS:
                    if way not in given.ways and way != WAYS[0]: continue
                    sweeps = given.iterations + (0 if 'CG' in way else 5)
                    env = os.environ | {'OMP_NUM_THREADS': str(threads), 'OPENBLAS_NUM_THREADS': '1', 'MKL_NUM_THREADS': str(threads), 'OMP_WAIT_POLICY': 'passive'}  # as the pipeline's kernels
                    done = subprocess.run([sys.executable, __file__, '--measure', str(matrix), way, str(factors), str(threads), str(sweeps), given.device, str(target)], capture_output=True, text=True, env=env)
                    if done.returncode: sys.exit(f'{way} failed:\n{done.stderr}')
                    found = json.loads(done.stdout.splitlines()[-1]); rows = found['rows']
                    if base is None: base = rows[-1]; target = base[2] * (1 + 1e-9)
                    wall, cpu, loss = rows[-1]; at = f"{len(rows):>8}{wall:>9.1f}{cpu:>9.1f}{base[0] / wall:>21.2f}{base[1] / cpu:>6.2f}{found['peak']:>11,.0f}" if loss <= target else ''
                    print(f"{way:<22}{factors:>8}{threads:>8}" + (at or f"{'not in ' + str(sweeps):>8}"), flush=True)


if __name__ == '__main__':
    if sys.argv[1:2] == ['--measure']: print(json.dumps(measure(*sys.argv[2:4], *map(int, sys.argv[4:7]), sys.argv[7], float(sys.argv[8]))))
    else:
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument('data', nargs='?', type=Path, help='folder in the Kaggle layout; left out: a twin')
        parser.add_argument('--scale', default='large', help='of the twin: demo, large or hm')
        parser.add_argument('--customers', type=int, default=0, help='so many of them, drawn at random; 0: all')
        parser.add_argument('--matrix', type=Path, help='a .npz of scipy instead: customers by articles, confidences')
        parser.add_argument('--factors', type=int, nargs='+', default=[64, 128])
        parser.add_argument('--threads', type=int, nargs='+', default=[os.cpu_count()])
        parser.add_argument('--iterations', type=int, default=15)
        parser.add_argument('--ways', nargs='+', default=['implicit, CG', 'torch'], choices=WAYS, help='the others take several times as long')
        parser.add_argument('--device', default='cpu')
        from recsys_lib.core import InputError
        try: main(parser.parse_args())
        except InputError as mistake: parser.error(str(mistake))
