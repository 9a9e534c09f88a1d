"""Recommenders that people know, each as one function: from what was bought before a date to lists for some customers.

A peer gets a `Question` and its settings and answers (customers, k) article numbers, best first, padded with -1. Everything that was sold before the date may be recommended, what
somebody bought already included. Where a peer has nothing to say, `ask.py` fills its list up with what sells, as ours is. Libraries are imported where they are used: the
environment of the tests has only some of them.
"""
import json, warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix


@dataclass
class Question:
    "What is asked, as `recsys_lib.peers.export_question` wrote it."
    interactions: np.ndarray  # (n, 3) int32: user, item, day; all before `asof`, oldest first
    users: np.ndarray  # (B,) int32, who is asked about
    fill: np.ndarray  # (T,) int32, what sells, best first
    n_users: int
    n_items: int  # eligible are 0 ... n_items - 1, all of which were sold before the date
    asof: int  # first day that is not known; days since 1970
    horizon: int  # days that are to be predicted
    k: int = 24

    @classmethod
    def open(cls, folder):
        folder = Path(folder)
        read = lambda name: np.load(folder / f'{name}.npy', allow_pickle=False)
        return cls(read('interactions'), read('users'), read('fill'), **json.loads((folder / 'question.json').read_text()))

    @property
    def known(self):
        "Which of the customers bought before. (B,) bool"
        return (self.users < self.n_users) & np.isin(self.users, self.interactions[:, 0])


def before(q, asof, users):
    "The same question asked earlier: what was bought from that day on is not known."
    return Question(q.interactions[q.interactions[:, 2] < asof], users, q.fill, q.n_users, q.n_items, asof, q.horizon, q.k)


def decay(q, day, half_life=None):
    "What a purchase counts that is half as much after so many days; after 149 times as many nothing is left. (n,) float32"
    return np.ones(len(day), np.float32) if half_life is None else np.exp2((day - (q.asof - 1)) / half_life).astype(np.float32)


def matrix(q, half_life=None):
    "csr (users, items) float32: purchases, each counting half after so many days."
    user, item, day = q.interactions.T
    return csr_matrix((decay(q, day, half_life), (user, item)), shape=(q.n_users, q.n_items), dtype=np.float32)


def sales(q, half_life=None):
    "(items,) float64: buyers of each day, a day's counting half after so many days; None: the horizon, as in our own popularity."
    rows = np.unique(q.interactions, axis=0)
    return np.bincount(rows[:, 1], np.exp2((rows[:, 2] - (q.asof - 1)) / (half_life or q.horizon)), q.n_items)


def best(score, k):
    "The k best articles, ties to the lower number; -1 where nothing was sold. (k,) int32"
    order = np.argsort(-score, kind='stable')[:k]
    return np.pad(np.where(score[order] > 0, order, -1), (0, k - len(order)), constant_values=-1).astype(np.int32)


def best_of_rows(scores, k):
    "The k largest entries of each row of a csr matrix, ties to the lower number. (B, k) int32 padded with -1"
    scores = scores.tocoo(); order = np.lexsort((scores.col, -scores.data, scores.row))
    row, item, value = scores.row[order], scores.col[order], scores.data[order]
    rank = np.arange(len(row)) - np.searchsorted(row, row); keep = (rank < k) & (value > 0)
    ids = np.full((scores.shape[0], k), -1, np.int32); ids[row[keep], rank[keep]] = item[keep]
    return ids


def followed_by(ids, more, k):
    "Lists continued by other lists, without what they hold already. (B, k) int32"
    ids = np.concatenate([ids, np.broadcast_to(more, (len(ids), np.shape(more)[-1]))], 1)
    by_id = np.argsort(ids, 1, kind='stable'); found = np.take_along_axis(ids, by_id, 1)
    again = np.zeros(ids.shape, bool); np.put_along_axis(again, by_id[:, 1:], found[:, 1:] == found[:, :-1], 1)
    ids = np.where(again, -1, ids)
    ids = np.take_along_axis(ids, np.argsort(ids < 0, 1, kind='stable'), 1)[:, :k]
    return np.pad(ids, ((0, 0), (0, k - ids.shape[1])), constant_values=-1).astype(np.int32)


def spread(q, known, answers):
    "Answers for those of the customers that are known; -1 for all others."
    ids = np.full((len(q.users), q.k), -1, np.int32); ids[known, :answers.shape[1]] = answers
    return ids


def bought(q, half_life):
    "What the customers bought, by recency and number. (B, k) int32"
    return spread(q, q.known, best_of_rows(matrix(q, half_life)[q.users[q.known]], q.k))


def bought_first(peer):
    """The same peer, which may be told to begin with what somebody bought: in fashion much is bought again, and a model that was made for films, where nothing is, is not to be judged by
    that. Whether to, and how fast a purchase is forgotten there, is tuned like any other setting."""
    def answer(q, first, first_half_life, **settings):
        ids = peer(q, **settings)
        return followed_by(np.concatenate([bought(q, first_half_life), ids], 1), np.zeros(0, np.int32), q.k) if first else ids
    return answer


# -- what sells, and what was bought before

def popularity(q, half_life):
    "What sells, to everybody."
    return np.broadcast_to(best(sales(q, half_life), q.k), (len(q.users), q.k)).astype(np.int32)


def repurchase(q, half_life, popularity_half_life):
    "What somebody bought, by recency and number; then what sells."
    return followed_by(bought(q, half_life), best(sales(q, popularity_half_life), q.k), q.k)


# -- implicit

def of_implicit(model, C, q, above=-np.inf):
    "Fit a model of implicit, and ask it."
    from threadpoolctl import threadpool_limits
    known = q.known; known[known] = C[q.users[known]].sum(1).A1 > 0  # see `decay`
    users = q.users[known]
    with threadpool_limits(1, 'blas'), warnings.catch_warnings():  # implicit warns of a matrix that it made itself
        warnings.simplefilter('ignore'); model.fit(C, show_progress=False)
        if not len(users): return spread(q, known, np.zeros((0, q.k), np.int32))
        found, score = model.recommend(users, C[users], N=q.k, filter_already_liked_items=False)
    return spread(q, known, np.where(score > above, found, -1))


def bm25(q, neighbours, k1, b, half_life):
    from implicit.nearest_neighbours import BM25Recommender
    return of_implicit(BM25Recommender(K=neighbours, K1=k1, B=b), matrix(q, half_life), q, above=0)


def cosine(q, neighbours, half_life):
    from implicit.nearest_neighbours import CosineRecommender
    return of_implicit(CosineRecommender(K=neighbours), matrix(q, half_life), q, above=0)


def als(q, factors, regularization, alpha, iterations, half_life, seed=42):
    from implicit.als import AlternatingLeastSquares
    model = AlternatingLeastSquares(factors=factors, regularization=regularization, alpha=alpha, iterations=iterations, random_state=seed, use_gpu=False)
    return of_implicit(model, matrix(q, half_life), q)


def bpr(q, factors, learning_rate, regularization, iterations, seed=42):
    from implicit.bpr import BayesianPersonalizedRanking
    model = BayesianPersonalizedRanking(factors=factors, learning_rate=learning_rate, regularization=regularization, iterations=iterations, random_state=seed,
                                        num_threads=1, use_gpu=False)  # its threads race: only one gives the same answer twice
    return of_implicit(model, matrix(q), q)


# -- RecTools

def of_rectools(model, q, interactions, half_life=None):
    "Fit a model of RecTools, and ask it. A purchase counts half after so many days, where a model looks at weights."
    import pandas as pd
    from rectools.dataset import Dataset
    weight = decay(q, interactions[:, 2], half_life); interactions, weight = interactions[weight > 0], weight[weight > 0]
    frame = pd.DataFrame(interactions, columns=['user_id', 'item_id', 'day'])
    frame = frame.assign(weight=weight, datetime=pd.to_datetime(frame.pop('day'), unit='D'))
    known = np.isin(q.users, interactions[:, 0]); dataset = Dataset.construct(frame)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        found = model.fit(dataset).recommend(q.users[known], dataset, k=q.k, filter_viewed=False, on_unsupported_targets='ignore')
    ids = np.full((len(q.users), q.k), -1, np.int32); at = np.argsort(q.users, kind='stable')
    ids[at[np.searchsorted(q.users[at], found.user_id)], found['rank'] - 1] = found.item_id
    return ids


def ease(q, items, regularization, half_life):
    "EASE (Steck 2019) over the articles with the most buyers: all would be a dense matrix of all by all."
    from rectools.models import EASEModel
    pairs = np.unique(q.interactions[:, :2], axis=0); most = best(np.bincount(pairs[:, 1], minlength=q.n_items).astype(float), items)
    return of_rectools(EASEModel(regularization=regularization, recommend_use_gpu_ranking=False), q, q.interactions[np.isin(q.interactions[:, 1], most)], half_life)


def sasrec(q, factors, blocks, length, dropout, learning_rate, epochs, negatives, seed=42):
    "SASRec (Kang, McAuley 2018) with sampled negatives: a softmax over the catalogue does not end on two cores."
    import logging, torch
    from rectools.models import SASRecModel
    logging.getLogger('pytorch_lightning').setLevel(logging.ERROR); logging.getLogger('lightning.pytorch').setLevel(logging.ERROR)
    torch.manual_seed(seed); np.random.seed(seed)
    model = SASRecModel(n_factors=factors, n_blocks=blocks, n_heads=2, session_max_len=length, dropout_rate=dropout, lr=learning_rate, epochs=epochs, loss='gBCE',
                        n_negatives=negatives, batch_size=128, deterministic=True, recommend_torch_device='cpu')
    return of_rectools(model, q, q.interactions)


# -- LightGBM with its own defaults

def plain_rows(q, candidates, neighbours, half_life):
    "Candidates (what sells, what was bought, what the neighbours say) with five plain features. row, item, (rows, 5) float32"
    from implicit.nearest_neighbours import CosineRecommender
    known = np.where(q.known, q.users, 0); C = matrix(q); model = CosineRecommender(K=neighbours)
    with warnings.catch_warnings(): warnings.simplefilter('ignore'); model.fit(C, show_progress=False)
    times = C[known].multiply(q.known[:, None]).tocsr(); near = (times @ model.similarity).tocsr()
    user, item, day = q.interactions.T; order = np.lexsort((day, item, user)); ends = np.append(np.diff(user[order].astype(np.int64) * q.n_items + item[order]) != 0, True)
    since = csr_matrix((q.asof - day[order][ends], (user[order][ends], item[order][ends])), shape=C.shape, dtype=np.float32)[known]
    sold = sales(q, half_life); top = best(sold, candidates)
    ids = followed_by(np.concatenate([best_of_rows(times, candidates), best_of_rows(near, candidates)], 1), top, 3 * candidates)
    row, column = np.nonzero(ids >= 0); item = ids[row, column]
    look = lambda table: np.asarray(table[row, item]).ravel()
    n, days = look(times), look(since)
    place = np.empty(q.n_items); place[np.argsort(-sold, kind='stable')] = np.arange(q.n_items)
    return row, item, np.stack([n, np.where(n > 0, days, -1), sold[item], place[item], look(near)], 1).astype(np.float32)


def lightgbm_plain(q, candidates, neighbours, half_life, periods, trees, learning_rate, leaves, min_leaf, seed=42):
    "LightGBM's LambdaRank on plain features, taught by the last periods that are known."
    import lightgbm
    x, y, group = [], [], []
    for n in range(1, periods + 1):
        asof = q.asof - n * q.horizon; day = q.interactions[:, 2]
        bought = np.unique(q.interactions[(day >= asof) & (day < asof + q.horizon), :2], axis=0)
        if not len(bought) or not (day < asof).any(): continue
        users = np.unique(bought[:, 0]); row, item, features = plain_rows(before(q, asof, users), candidates, neighbours, half_life)
        hit = np.isin(users[row].astype(np.int64) * q.n_items + item, bought[:, 0].astype(np.int64) * q.n_items + bought[:, 1])
        keep = np.bincount(row, hit, len(users))[row] > 0
        x.append(features[keep]); y.append(hit[keep]); group.append(np.unique(row[keep], return_counts=True)[1])
    row, item, features = plain_rows(q, candidates, neighbours, half_life)
    if not x or not sum(map(len, x)): score = features[:, 2]
    else:
        params = dict(objective='lambdarank', learning_rate=learning_rate, num_leaves=leaves, min_data_in_leaf=min_leaf, seed=seed, deterministic=True, force_row_wise=True, verbose=-1)
        score = lightgbm.train(params, lightgbm.Dataset(np.concatenate(x), np.concatenate(y), group=np.concatenate(group)), trees).predict(features)
    order = np.lexsort((np.arange(len(row)), -score, row)); row, item = row[order], item[order]
    rank = np.arange(len(row)) - np.searchsorted(row, row); keep = rank < q.k
    ids = np.full((len(q.users), q.k), -1, np.int32); ids[row[keep], rank[keep]] = item[keep]
    return ids


# -- who is asked: the function, the settings of the first trial, and what the other trials draw from: a list to choose from, or (low, high, 'log' or 'even')

DAYS, LONG = (.5, 90., 'log'), (1., 1000., 'log')


def made_for_films(peer, usual, ranges):
    "A peer that may begin with what somebody bought; left alone, it does not."
    return bought_first(peer), dict(first=False, first_half_life=30., **usual), dict(first=[False, True], first_half_life=DAYS, **ranges)


PEERS = {
    'popularity, tuned': (popularity, dict(half_life=None), dict(half_life=DAYS)),
    'repurchase + popularity, tuned': (repurchase, dict(half_life=30., popularity_half_life=None), dict(half_life=DAYS, popularity_half_life=DAYS)),
    'BM25 item-kNN (implicit)': made_for_films(bm25, dict(neighbours=20, k1=1.2, b=.75, half_life=1000.),
        dict(neighbours=[10, 20, 50, 100, 200, 500], k1=(.05, 5., 'log'), b=(0., 1., 'even'), half_life=LONG)),
    'cosine item-kNN (implicit)': made_for_films(cosine, dict(neighbours=20, half_life=1000.), dict(neighbours=[10, 20, 50, 100, 200, 500], half_life=LONG)),
    'ALS (implicit)': made_for_films(als, dict(factors=64, regularization=.01, alpha=1., iterations=15, half_life=1000.),
        dict(factors=[32, 64, 128, 256], regularization=(.001, 30., 'log'), alpha=(.5, 100., 'log'), iterations=[5, 10, 15, 25], half_life=LONG)),
    'BPR (implicit)': made_for_films(bpr, dict(factors=100, learning_rate=.01, regularization=.01, iterations=100),
        dict(factors=[32, 64, 100, 200], learning_rate=(.002, .2, 'log'), regularization=(.0005, .2, 'log'), iterations=[50, 100, 200, 400])),
    'EASE (RecTools)': made_for_films(ease, dict(items=4000, regularization=500., half_life=1000.), dict(items=[1000, 2000, 4000, 6000], regularization=(.5, 2000., 'log'), half_life=LONG)),
    'SASRec (RecTools)': made_for_films(sasrec, dict(factors=64, blocks=2, length=20, dropout=.2, learning_rate=.001, epochs=3, negatives=32),
        dict(factors=[32, 64], blocks=[1, 2], length=[10, 20], dropout=[.1, .2, .4], learning_rate=(.0005, .02, 'log'), epochs=[1, 2, 3, 5], negatives=[8, 32])),
    'LightGBM, plain features': (lightgbm_plain, dict(candidates=60, neighbours=50, half_life=None, periods=1, trees=100, learning_rate=.1, leaves=31, min_leaf=20),
        dict(candidates=[30, 60, 100], neighbours=[20, 50, 200], half_life=DAYS, periods=[1, 2, 3], trees=[50, 100, 200, 400], learning_rate=(.01, .2, 'log'), leaves=[7, 15, 31, 63],
             min_leaf=[20, 100, 500, 2000])),
}
