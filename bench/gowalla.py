"""`make bench-gowalla DATA=folder`: the linear models and ALS on LightGCN's split of Gowalla, beside the tables that others have published on it.

The folder holds train.txt and test.txt, a line per user: user item item ... (as in the repositories of NGCF and LightGCN; `data/gowalla`). Settings below were chosen on a validation
split: `--validate` holds out a tenth of the train set at random, and never opens test.txt. Recall@20 and NDCG@20 are means over the users with something held out, as LightGCN computes them.
Every model runs in a process of its own, so that its peak memory is its own.
"""
import argparse, json, resource, subprocess, sys, time
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

MODELS = {  # name -> (class, settings)
    'item-kNN, cosine': ('ItemKNN', dict(neighbours=100)),
    'item-kNN, BM25': ('ItemKNN', dict(neighbours=100, weighting='bm25')),
    'EASE, 8,000 items': ('EASE', dict(ridge=200., max_items=8000)),
    'ALS': ('ALS', dict(factors=128, regularization=.05)),
    'GF-CF': ('GraphFilter', dict(factors=256, damping=0., ideal=.3, lift=0., activity=.5)),
    'graph filter': ('GraphFilter', {}),
}
PUBLISHED = {'ItemPop': (.0416, .0317), 'MF-BPR': (.1627, .1378), 'EASE': (.1765, .1467), 'LightGCN': (.1820, .1547), 'UltraGCN': (.1862, .1580), 'SimpleX': (.1872, .1557),
             'BSPM': (.1920, .1597), 'ChebyCF': (.1941, .1616)}


def read(path, shape=None):
    "A file of the split as a matrix of ones."
    lines = [np.array(line.split(), np.int64) for line in open(path) if line.strip()]
    user, item = np.repeat([l[0] for l in lines], [len(l) - 1 for l in lines]), np.concatenate([l[1:] for l in lines])
    X = csr_matrix((np.ones(len(user), np.float32), (user, item)), shape); X.data[:] = 1
    return X


def split(folder, validate, seed=7):
    "Two matrices: what is known, and what is to be found."
    train = read(folder / 'train.txt')
    if validate:
        held = np.random.default_rng(seed).random(train.nnz) < .1; user = np.repeat(np.arange(train.shape[0]), np.diff(train.indptr))
        part = lambda keep: csr_matrix((train.data[keep], (user[keep], train.indices[keep])), train.shape)
        return part(~held), part(held)
    test = read(folder / 'test.txt'); shape = tuple(np.maximum(train.shape, test.shape))
    train.resize(shape); test.resize(shape)
    return train, test


def recall_and_ndcg(ids, held):
    "Mean recall and NDCG at k = the width of `ids`, over the rows of `held`, none of which is empty."
    k, n = ids.shape[1], np.diff(held.indptr); discount = 1 / np.log2(np.arange(2, k + 2))
    key = np.sort(np.repeat(np.arange(len(n)), n) * held.shape[1] + held.indices)
    asked = np.arange(len(n))[:, None] * held.shape[1] + ids; at = np.minimum(np.searchsorted(key, asked), len(key) - 1)
    hit = (key[at] == asked) & (ids >= 0)
    return (hit.sum(1) / n).mean(), ((hit * discount).sum(1) / np.append(0, np.cumsum(discount))[np.minimum(n, k)]).mean()


def measure(folder, validate, kind, settings):
    "Fit and evaluate one model."
    from recsys_lib import als, linear
    known, held = split(folder, validate)
    model = getattr(linear, kind, None) or getattr(als, kind); start = time.perf_counter(), time.process_time()
    model = model(**settings).fit(known); fitted = time.perf_counter()
    users = np.flatnonzero(np.diff(held.indptr))
    ids = np.concatenate([model.recommend(known[users[a:a + 512]], 20)[0] for a in range(0, len(users), 512)])
    recall, ndcg = recall_and_ndcg(ids, held[users])
    return dict(recall=recall, ndcg=ndcg, fit=fitted - start[0], answer=time.perf_counter() - fitted, cpu=time.process_time() - start[1], users=len(users), peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main(folder, validate, only, settings):
    for name in ('train.txt', 'test.txt'):
        if not (folder / name).exists(): sys.exit(f"error: {folder / name} is missing; expected a folder with train.txt and test.txt, a line per user: user item item ...")
    print(f"{'':<24}{'Recall@20':>10}{'NDCG@20':>10}{'fit, s':>9}{'answer, s':>11}{'CPU, s':>8}{'peak, MiB':>11}  settings")
    if not validate:
        for name, (recall, ndcg) in PUBLISHED.items(): print(f"{name + ' (published)':<24}{recall:>10.4f}{ndcg:>10.4f}")
    for name, (kind, own) in MODELS.items():
        if only and only not in name: continue
        own = own | settings
        done = subprocess.run([sys.executable, __file__, '--measure', str(folder), str(int(validate)), kind, json.dumps(own)], capture_output=True, text=True)
        if done.returncode: print(f'{name}: failed\n{done.stderr[-2000:]}', file=sys.stderr); continue
        r = json.loads(done.stdout.splitlines()[-1])
        print(f"{name:<24}{r['recall']:>10.4f}{r['ndcg']:>10.4f}{r['fit']:>9.0f}{r['answer']:>11.0f}{r['cpu']:>8.0f}{r['peak']:>11,.0f}  {', '.join(f'{k} {v}' for k, v in own.items()) or 'the defaults'}", flush=True)


if __name__ == '__main__':
    if sys.argv[1:2] == ['--measure']: print(json.dumps(measure(Path(sys.argv[2]), bool(int(sys.argv[3])), sys.argv[4], json.loads(sys.argv[5]))))
    else:
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument('folder', type=Path, help='with train.txt and test.txt')
        parser.add_argument('--validate', action='store_true', help='on a tenth of the train set held out, instead of the test set')
        parser.add_argument('--only', default='', help='models whose name has this in it')
        parser.add_argument('--settings', type=json.loads, default={}, help='JSON, on top of theirs')
        given = parser.parse_args()
        main(given.folder, given.validate, given.only, given.settings)
