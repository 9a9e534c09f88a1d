"""The chain on real H&M data, where LOOKBOOK_REAL_DATA names the folder that holds it: the smoke profile, in minutes.
The figures recorded here were measured elsewhere on the same split, so they check the evaluation, not the model."""
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys_lib.bundle import Recommender
from recsys_lib.core import Run
from recsys_lib.data import open_dataset
from recsys_lib.metrics import average_precision
from recsys_lib.retrieval import union
from recsys_lib.sources import open_snapshot, popularity, top_items
from recsys_lib.split import labels, open_plan

ROOT = Path(__file__).resolve().parents[1]
REAL = os.environ.get('LOOKBOOK_REAL_DATA')
pytestmark = pytest.mark.skipif(not REAL, reason='LOOKBOOK_REAL_DATA is not set')


@pytest.fixture(scope='module', params=['hm-week', 'hm-sample'])
def finished(request, new_scratch):
    "The name of a slice and the folder of its finished run."
    environment = dict(os.environ, DATA=f'{REAL}/{request.param}', PROFILE='smoke', SEED='', WANDB_MODE='disabled', LOOKBOOK_SCRATCH=new_scratch())
    environment.pop('MAKELEVEL', None)  # not a part of the `make` that runs the tests
    done = subprocess.run([sys.executable, ROOT / 'dodo.py', 'run'], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    folder = subprocess.run([sys.executable, ROOT / 'dodo.py', 'folder'], env=environment, capture_output=True, text=True, check=True)
    return request.param, ROOT / folder.stdout.strip()


def record(folder, stage):
    return json.loads((folder / f'records/{stage}.json').read_text())


def test_the_table_is_complete_and_honest(finished):
    name, folder = finished
    table = pd.DataFrame(record(folder, '60_evaluation')['tables']['headline']).set_index('model')
    assert {'two-stage', 'popularity', 'repurchase + popularity', 'item-kNN (BM25)', 'ALS', 'shuffle'} <= set(table.index)
    assert (table['MAP@12 low'] <= table['MAP@12']).all() and (table['MAP@12'] <= table['MAP@12 high']).all()
    assert table['MAP@12']['two-stage'] > table['MAP@12']['shuffle'] and table['coverage'].between(0, 1).all()


def test_known_baselines_are_reproduced(finished):
    "The figures recorded elsewhere are of popularity by pieces; ours counts buyers."
    name, folder = finished
    if name != 'hm-week': pytest.skip('recorded for hm-week')
    popular, again, metrics = baselines(Run(folder)) + (record(folder, '60_evaluation')['metrics'],)
    assert np.isclose(popular, .0093, atol=.0002) and np.isclose(again, .0239, atol=.0004)
    assert metrics['buyers'] == 9384 and metrics['known_buyers'] == 1245


def baselines(run):
    "MAP@12 of what sells, in pieces, and of what was bought before and then what sells, on the last test period."
    dataset, plan = open_dataset(run), open_plan(run); period = plan.test[-1]; asof, bought = period.asof, labels(dataset, period)
    n = dataset.before(asof).select('item_idx', 'day').execute().value_counts().sort_index()
    sales = n.index.get_level_values('item_idx').to_numpy(), n.index.get_level_values('day').to_numpy(), np.zeros(len(n), int), n.to_numpy()
    top = np.broadcast_to(top_items(popularity(sales, asof, dataset.n_items_at(asof), float(plan.horizon), 1, 0.)[0], 200), (len(bought), 200))
    history = open_snapshot(run, asof).histories.batch(bought.users, asof, 32).item
    return tuple(average_precision(union(lists, 12)[0], bought.padded()).mean() for lists in ([top], [np.concatenate([history, top], 1)]))


def test_the_bundle_is_what_was_evaluated(finished):
    _, folder = finished
    found = record(folder, '75_acceptance')
    assert found['metrics']['largest_score_difference'] < 1e-5
    assert all(r['history'] == r['ids'] == r['scores'] == 0 for r in found['tables']['comparisons'])


def test_nothing_of_the_raw_files_is_lost(finished):
    name, folder = finished
    dataset = open_dataset(Run(folder))
    raw = pd.read_csv(f'{REAL}/{name}/transactions_train.csv', dtype=str)
    assert dataset.meta['transactions'] + dataset.meta['rejected'].get('transactions_train.csv', 0) == len(raw)
    assert dataset.meta['items'] == 105_542 and 'articles.csv' not in dataset.meta['rejected']


def test_real_customers_are_answered(finished):
    name, folder = finished
    recommender = Recommender(folder / 'bundle/current')
    raw = pd.read_csv(f'{REAL}/{name}/transactions_train.csv', dtype=str)
    customers = raw.customer_id.drop_duplicates().sample(50, random_state=0).tolist()
    ids, scores = recommender.recommend(recommender.customers(customers))
    assert (ids >= 0).all() and np.isfinite(scores).all() and (np.diff(scores, axis=1) <= 0).all()
    assert recommender.article_ids[int(ids[0, 0])].startswith('0') and len(recommender.article_ids[int(ids[0, 0])]) == 10
