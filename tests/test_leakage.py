"""A snapshot knows nothing after its date: whatever happens on that day or later leaves it the same to the byte,
and with it its candidates, its features and what is learned from baskets."""
from zlib import crc32

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from recsys_lib.complements import ComplementSettings, fit_complements
from recsys_lib.core import to_day, to_date
from recsys_lib.data import Dataset, ingest
from recsys_lib.features import FeatureGraph, bind, export_template, save_graph, snapshot_tables
from recsys_lib.sources import draw_hidden, fit_snapshot


def vectors_of(dataset):
    "Content vectors, which follow from the article."
    vectors = np.stack([np.random.default_rng(crc32(a.encode())).normal(size=8) for a in dataset.item_frame.article_id]).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def snapshot_at(dataset, asof):
    "A snapshot with content vectors, and with some articles made cold."
    return fit_snapshot(dataset, asof, vectors=vectors_of(dataset), hidden=draw_hidden(dataset.n_items_at(asof), .05, asof))


def known_at(dataset, asof, template, folder):
    "Everything that is known at a date, as bytes by name."
    snapshot = snapshot_at(dataset, asof)
    save_graph(bind(template or export_template(snapshot), snapshot_tables(snapshot)), folder / 'features.onnx')
    users = np.arange(-1, min(100, len(snapshot.histories)))
    history = snapshot.histories.batch(users, asof, snapshot.settings.retrieval.history)
    candidates = snapshot.retriever().candidates(history)
    features = FeatureGraph(folder / 'features.onnx')(candidates, history)
    complements = fit_complements(dataset, asof, vectors_of(dataset), settings=ComplementSettings(dim=8, epochs=1, carts=50))
    named = {**snapshot.arrays, **snapshot.histories.__dict__, **candidates.__dict__, 'features': features, **complements}
    return {name: (array.shape, array.dtype.str, np.ascontiguousarray(array).tobytes()) for name, array in named.items()}


@pytest.fixture(scope='module')
def before(twin, tmp_path_factory):
    "The twin's tables, a date in it, what is known then, and the exported feature graph."
    folder = tmp_path_factory.mktemp('before')
    text = dict(dtype=str, keep_default_na=False)
    tables = {n: pd.read_csv(twin / f'{n}.csv', **text) for n in ('articles', 'customers', 'transactions_train')}
    dataset = Dataset(ingest_into(twin, folder / 'data'))
    asof = dataset.meta['last_day'] - 13
    template = export_template(snapshot_at(dataset, asof))
    return tables, asof, known_at(dataset, asof, template, folder), template


def ingest_into(raw, out):
    ingest(raw, out)
    return out


def shuffled(future, tables, rng):
    return future.sample(frac=1, random_state=rng.integers(1 << 30))


def altered(future, tables, rng):
    n = len(future)
    return future.assign(article_id=rng.choice(tables['articles'].article_id, n), customer_id=rng.choice(tables['customers'].customer_id, n),
                         price=[f'{p:.6f}' for p in rng.random(n)], sales_channel_id=rng.choice(['1', '2'], n),
                         t_dat=[to_date(to_day(d) + int(rng.integers(0, 5))) for d in future.t_dat])


def removed(future, tables, rng):
    return future[rng.random(len(future)) < rng.random()]


def newcomers(future, tables, rng):
    "New customers and articles that appear only later, with attributes nobody had, and ids that sort before all others."
    n = 30
    articles = tables['articles'].iloc[:n].assign(article_id=[f'00000{i:05}' for i in range(n)], department_no='1', section_no='7', product_code='000')
    customers = tables['customers'].iloc[:n].assign(customer_id=[f'{i:064x}' for i in range(n)], club_member_status='BRAND NEW')
    tables['articles'] = pd.concat([articles, tables['articles']]); tables['customers'] = pd.concat([customers, tables['customers']])
    rows = future.sample(200, replace=True, random_state=rng.integers(1 << 30))
    return pd.concat([future, rows.assign(article_id=rng.choice(articles.article_id, 200), customer_id=rng.choice(customers.customer_id, 200))])


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(changes=st.lists(st.sampled_from([shuffled, altered, removed, newcomers]), min_size=1, max_size=3, unique=True), seed=st.integers(0, 10 ** 6))
def test_the_future_does_not_change_a_snapshot(before, tmp_path, changes, seed):
    tables, asof, expected, template = before
    tables, rng = dict(tables), np.random.default_rng(seed)
    rows = tables['transactions_train']
    past, future = rows[rows.t_dat < to_date(asof)], rows[rows.t_dat >= to_date(asof)]
    assert len(past) and len(future)
    for change in changes: future = change(future, tables, rng)
    tables['transactions_train'] = pd.concat([past, future])
    raw = tmp_path / 'raw'; raw.mkdir(exist_ok=True)
    for name, table in tables.items(): table.to_csv(raw / f'{name}.csv', index=False)
    got = known_at(Dataset(ingest_into(raw, tmp_path / 'data')), asof, template, tmp_path)
    assert got.keys() == expected.keys()
    assert not [name for name in expected if got[name] != expected[name]]


def test_the_past_does_change_it(before, tmp_path):
    "The property above is not empty: one row of the day before is enough."
    tables, asof, expected, template = before
    rows = tables['transactions_train']
    last = rows[rows.t_dat < to_date(asof)].index[-1]
    raw = tmp_path / 'raw'; raw.mkdir()
    for name, table in tables.items(): (rows.drop(last) if name == 'transactions_train' else table).to_csv(raw / f'{name}.csv', index=False)
    got = known_at(Dataset(ingest_into(raw, tmp_path / 'data')), asof, template, tmp_path)
    assert got['popularity_score'] != expected['popularity_score'] and got['features'] != expected['features'] and got['outfit_to'] != expected['outfit_to']
