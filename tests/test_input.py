"What a person may get wrong: each mistake is told in one sentence that names the place, and no row is lost."
import gzip, re, shutil

import numpy as np
import pandas as pd
import pytest

from recsys_lib.bundle import Recommender, build_bundle
from recsys_lib.complements import open_complements
from recsys_lib.core import InputError, Run, to_day
from recsys_lib.data import Dataset, ingest
from recsys_lib.evaluation import first_look
from recsys_lib.search import open_search
from recsys_lib.split import open_plan, plan_periods
from serving.app import create_app

FILES = 'articles.csv', 'customers.csv', 'transactions_train.csv'


def edit(folder, name, change):
    "Rewrite a file's text."
    path = folder / name
    path.write_text(change(path.read_text()))


def change_rows(folder, name, change):
    "Rewrite a file as a table of texts."
    table = pd.read_csv(folder / name, dtype=str, keep_default_na=False)
    change(table).to_csv(folder / name, index=False)


def set_some(column, value, share=.1):
    "Overwrite a column in every so manieth row."
    def change(t):
        t.loc[t.index % round(1 / share) == 0, column] = value
        return t
    return change


STOPS = {
    'missing file: transactions': (lambda d: (d / 'transactions_train.csv').unlink(), 'transactions_train.csv: no such file'),
    'missing file: articles': (lambda d: (d / 'articles.csv').unlink(), 'articles.csv: no such file'),
    'missing column in transactions': (lambda d: change_rows(d, 'transactions_train.csv', lambda t: t.drop(columns='t_dat')), 'transactions_train.csv: column t_dat is missing'),
    'missing column in articles': (lambda d: change_rows(d, 'articles.csv', lambda t: t.rename(columns={'article_id': 'sku'})), 'articles.csv: column article_id is missing'),
    'missing column in customers': (lambda d: change_rows(d, 'customers.csv', lambda t: t.drop(columns='customer_id')), 'customers.csv: column customer_id is missing'),
    'empty file': (lambda d: (d / 'transactions_train.csv').write_text(''), 'transactions_train.csv: the file is empty'),
    'header only': (lambda d: edit(d, 'transactions_train.csv', lambda s: s.split('\n')[0] + '\n'), 'transactions_train.csv: no rows below the header'),
    'unparsable dates': (lambda d: change_rows(d, 'transactions_train.csv', set_some('t_dat', '20/09/2020')), "t_dat is not a date YYYY-MM-DD"),
    'ids that join nothing': (lambda d: change_rows(d, 'transactions_train.csv', set_some('article_id', '9999999999', 1)), 'article_id is not in the articles file'),
    'prices that are words': (lambda d: change_rows(d, 'transactions_train.csv', set_some('price', 'cheap')), 'price is not a number'),
    'many duplicate articles': (lambda d: change_rows(d, 'articles.csv', lambda t: pd.concat([t, t])), 'article_id is a duplicate'),
}


@pytest.mark.parametrize('case', STOPS)
def test_a_mistake_stops_the_run_with_its_place(twin, copy_of, tmp_path, case):
    damage, message = STOPS[case]
    folder = copy_of(twin); damage(folder)
    with pytest.raises(InputError) as told: ingest(folder, tmp_path / 'data')
    assert message in str(told.value)


def test_missing_folder(tmp_path):
    with pytest.raises(InputError, match='nowhere: no such folder'): ingest(tmp_path / 'nowhere', tmp_path / 'data')


def test_what_is_missing_is_called_as_the_layout_does(tmp_path):
    layout = {'files': {'articles': 'products', 'transactions_train': 'orders'}}
    with pytest.raises(InputError, match='no such folder; expected one with products.csv and orders.csv'): ingest(tmp_path / 'nowhere', tmp_path / 'data', layout)
    with pytest.raises(InputError, match='products.csv: no such file'): ingest(tmp_path, tmp_path / 'data', layout)
    (tmp_path / 'products.csv').write_text('article_id\n1\n')
    with pytest.raises(InputError, match='orders.csv: no such file'): ingest(tmp_path, tmp_path / 'data', layout)


@pytest.fixture(scope='module')
def twin(twin, tmp_path_factory):
    "Three weeks of the twin, with the columns that these tests look at."
    folder = tmp_path_factory.mktemp('short') / 'raw'; folder.mkdir()
    table = {name: pd.read_csv(twin / name, dtype=str, keep_default_na=False) for name in FILES}
    table['articles.csv'][['article_id', 'product_code', 'prod_name']].to_csv(folder / 'articles.csv', index=False)
    table['customers.csv'][['customer_id', 'age']].to_csv(folder / 'customers.csv', index=False)
    table['transactions_train.csv'].query('t_dat >= "2020-09-01"').to_csv(folder / 'transactions_train.csv', index=False)
    return folder


def rows_of(folder):
    return pd.read_csv(folder / 'transactions_train.csv', dtype=str, keep_default_na=False)


def rejected(data):
    return Dataset(data).rejects


def test_a_file_cut_in_mid_row_loses_only_that_row(twin, copy_of, tmp_path):
    folder = copy_of(twin)
    edit(folder, 'transactions_train.csv', lambda s: s[:-60])
    lines = (folder / 'transactions_train.csv').read_text().split('\n')[1:]
    meta = ingest(folder, tmp_path / 'data')
    bad = rejected(tmp_path / 'data')
    assert meta['transactions'] + len(bad) == len(lines) and len(bad) == 1
    assert bad.content[0] == lines[-1] and bad.line[0] == len(lines) + 1 and bad.reason[0] == '5 fields expected, 2 found'


def test_a_few_bad_rows_are_set_aside_with_their_reason(twin, copy_of, tmp_path):
    folder = copy_of(twin); rows = rows_of(folder)
    bad = {5: ('t_dat', 'yesterday', 't_dat is not a date YYYY-MM-DD'), 50: ('price', '-0.01', 'price is negative'),
           99: ('customer_id', '', 'customer_id is empty'), 120: ('article_id', '0000000000', 'article_id is not in the articles file')}
    for row, (column, value, _) in bad.items(): rows.loc[row, column] = value
    rows.to_csv(folder / 'transactions_train.csv', index=False)
    meta = ingest(folder, tmp_path / 'data')
    assert meta['transactions'] == len(rows) - len(bad) and meta['rejected'] == {'transactions_train.csv': len(bad)}
    told = rejected(tmp_path / 'data')
    assert dict(zip(told.line, told.reason)) == {row + 2: reason for row, (_, _, reason) in bad.items()} and set(told.file) == {'transactions_train.csv'}


def test_a_duplicate_article_is_set_aside_and_costs_no_sale(twin, copy_of, tmp_path):
    folder = copy_of(twin)
    change_rows(folder, 'articles.csv', lambda t: pd.concat([t, t.head(1).assign(prod_name='zzz another name')]))
    meta = ingest(folder, tmp_path / 'data')
    assert meta['rejected'] == {'articles.csv': 1} and meta['transactions'] == len(rows_of(folder))


def test_identical_rows_are_quantities(twin, copy_of, tmp_path):
    folder = copy_of(twin)
    change_rows(folder, 'transactions_train.csv', lambda t: pd.concat([t, t.head(100), t.head(100)]))
    assert ingest(folder, tmp_path / 'data')['transactions'] == len(rows_of(folder)) == len(rows_of(twin)) + 200


def test_customers_are_optional_and_unknown_ones_are_kept(twin, copy_of, tmp_path):
    folder = copy_of(twin); known = ingest(folder, tmp_path / 'all')
    buyers = rows_of(folder).customer_id.nunique()
    change_rows(folder, 'customers.csv', lambda t: t.head(3))
    assert ingest(folder, tmp_path / 'few')['users'] in range(buyers, buyers + 4)
    (folder / 'customers.csv').unlink()
    assert ingest(folder, tmp_path / 'none')['users'] == buyers <= known['users']


def test_a_customer_without_purchases_is_known_and_last(twin, copy_of, tmp_path):
    folder = copy_of(twin)
    change_rows(folder, 'customers.csv', lambda t: pd.concat([t.head(1).assign(customer_id='0' * 64), t]))
    ingest(folder, tmp_path / 'data'); dataset = Dataset(tmp_path / 'data')
    user = dataset.user_frame.index[dataset.user_frame.customer_id == '0' * 64][0]
    assert user >= dataset.n_users_at(dataset.meta['last_day'] + 1) and not (dataset.transactions.execute().user_idx == user).any()


def test_only_the_required_columns_are_needed(twin, copy_of, tmp_path):
    folder = copy_of(twin); (folder / 'customers.csv').unlink()
    change_rows(folder, 'articles.csv', lambda t: t[['article_id']])
    change_rows(folder, 'transactions_train.csv', lambda t: t[['t_dat', 'customer_id', 'article_id']])
    assert ingest(folder, tmp_path / 'data')['transactions'] == len(rows_of(folder))


def test_decimal_commas_and_channels_in_words(twin, copy_of, tmp_path):
    folder = copy_of(twin); ingest(folder, tmp_path / 'plain')
    change_rows(folder, 'transactions_train.csv', lambda t: t.assign(price=t.price.str.replace('.', ','), sales_channel_id=t.sales_channel_id.map({'1': 'Laden', '2': 'Netz'})))
    change_rows(folder, 'customers.csv', lambda t: t.assign(age=t.age.str.replace('.', ',')))
    for name in FILES: pd.read_csv(folder / name, dtype=str, keep_default_na=False).to_csv(folder / name, sep=';', index=False)
    layout = dict(delimiter=';', digits={'article_id': 10}, lower=['customer_id'])
    with pytest.raises(InputError, match='sales_channel_id is not a number: 1 for a store, 2 for the web'): ingest(folder, tmp_path / 'data', layout | dict(decimal=','))
    with pytest.raises(InputError, match='age is not a number'): ingest(folder, tmp_path / 'data', layout | dict(channels=dict(Laden=1, Netz=2)))
    layout |= dict(decimal=',', channels=dict(Laden=1, Netz=2)); ingest(folder, tmp_path / 'data', layout)
    one, two = (Dataset(tmp_path / name).transactions.execute().sort_values(['day', 'user_idx', 'item_idx', 'price']).reset_index(drop=True) for name in ('plain', 'data')); pd.testing.assert_frame_equal(one, two)
    rows = pd.read_csv(folder / 'transactions_train.csv', dtype=str, sep=';'); rows.loc[0, 'price'] = '1.234,5'; rows.to_csv(folder / 'transactions_train.csv', sep=';', index=False)
    ingest(folder, tmp_path / 'data', layout); assert pd.read_parquet(tmp_path / 'data/rejects.parquet').reason.tolist() == ['price is not a number']  # and is neither 1.2345 nor 12345
    for wrong, message in ((dict(decimal=';'), 'decimal'), (dict(channels=dict(Laden=3)), 'expected 1 for a store or 2')):
        with pytest.raises(InputError, match=message): ingest(folder, tmp_path / 'x', layout | wrong)


def test_too_many_bad_rows_are_kept_and_all_of_them_are_accounted_for(twin, copy_of, tmp_path):
    folder = copy_of(twin); n = len(rows_of(folder))
    def spoil(t):
        for k, (column, value) in enumerate((('price', 'cheap'), ('t_dat', 'then'), ('customer_id', ''), ('article_id', '99'), ('sales_channel_id', 'web'))): t.loc[t.index % 50 == k, column] = value
        return t
    change_rows(folder, 'transactions_train.csv', spoil)
    with pytest.raises(InputError, match='other reason.s.. All of them are in .*data.rejects.parquet; `max_reject_share` of 10_data') as stopped: ingest(folder, tmp_path / 'data')
    kept = pd.read_parquet(tmp_path / 'data.rejects.parquet'); assert len(kept) == sum((np.arange(n) % 50) < 5) and kept.reason.nunique() == 5 and f'{len(kept):,} of {n:,} rows' in str(stopped.value)
    ingest(folder, tmp_path / 'data', max_reject_share=.2); assert not (tmp_path / 'data.rejects.parquet').exists() and len(pd.read_parquet(tmp_path / 'data/rejects.parquet')) == len(kept)


def test_a_name_that_only_one_file_has_is_hinted_at(twin, copy_of, tmp_path):
    folder = copy_of(twin); (folder / 'customers.csv').unlink(); change_rows(folder, 'transactions_train.csv', lambda t: t.rename(columns={'article_id': 'Artikel'})); change_rows(folder, 'articles.csv', lambda t: t.rename(columns={'article_id': 'ArtNr'}))
    layout = dict(columns={'article_id': 'Artikel'}, digits={'article_id': 10}, lower=['customer_id'])
    with pytest.raises(InputError, match='articles.csv: column Artikel is missing; found ArtNr.*`articles.article_id: <its name>`'): ingest(folder, tmp_path / 'data', layout)
    layout['columns']['articles.article_id'] = 'ArtNr'; assert ingest(folder, tmp_path / 'data', layout)['transactions'] == len(rows_of(folder))
    with pytest.raises(InputError, match='products.csv: no such file .*the folder holds articles.csv, transactions_train.csv.*layout of a profile'): ingest(folder, tmp_path / 'x', dict(files=dict(articles='products')))


def test_a_shop_of_bare_ids_ends_in_a_bundle_that_answers(copy_of, twin):
    "No names, no images, no prices, no customers: what the models and the bundle are made of when there is nothing but who bought what, and when."
    folder = copy_of(twin); (folder / 'customers.csv').unlink()
    change_rows(folder, 'articles.csv', lambda t: t[['article_id']]); change_rows(folder, 'transactions_train.csv', lambda t: t[['t_dat', 'customer_id', 'article_id']])
    run = Run('').aside('bare', linked=()); ingest(folder, run.path('data')); plan = open_plan(run); open_search(run); open_complements(run, plan.now)
    assert all(r['MAP@12'] > 0 for r in first_look(run, 'copurchase'))
    folder = build_bundle(run, plan.now, run.path('bundle')); bundle = Recommender(folder); who = bundle.customers([*(bundle.customer_ids[i] for i in range(50)), ''])
    for ids, scores in (bundle.recommend(who, 12), bundle.similar_items([0, 7], 12), bundle.frequently_bought_together([0, 7], 12), bundle.complete_the_outfit([[0], [7]], 3)):
        assert (ids[:, 0] >= 0).all() and (ids < len(bundle.article_ids)).all() and np.isfinite(scores[ids >= 0]).all() and all(len(set(row[row >= 0])) == (row >= 0).sum() for row in ids)
    assert bundle.can_search and not bundle.can_search_images and bundle.search(['dress'], 3)[0].tolist() == [[-1] * 3]  # there are no words to find
    shop = create_app(dict(BUNDLE=str(folder))).test_client(); pages = {at: shop.get(at) for at in ('/', f'/shop/article/{bundle.article_ids[0]}', '/shop/search?q=dress', '/shop/cart', '/shop/preferences')}
    assert all(page.status_code == 200 for page in pages.values()) and not any(re.search('kinds? of garment|look alike|Similar look|None', page.text) for page in pages.values())


def test_a_column_of_the_layout_is_in_one_of_the_weeks_or_the_run_stops(twin, copy_of, tmp_path):
    folder = copy_of(twin); rows = rows_of(folder).rename(columns={'price': 'paid'}); (folder / 'transactions_train.csv').unlink(); (folder / 'customers.csv').unlink()
    weeks = folder / 'transactions_train'; weeks.mkdir(); late = rows.t_dat >= '2020-09-10'
    rows[late].to_csv(weeks / '2.csv', index=False); rows[~late].drop(columns='paid').to_csv(weeks / '1.csv', index=False)
    layout = {'columns': {'price': 'paid', 'age': 'years'}, 'digits': {'article_id': 10}}  # there are no customers, so nothing is said of their years
    ingest(folder, tmp_path / 'data', layout)
    assert Dataset(tmp_path / 'data').transactions.price.notnull().sum().execute() == late.sum()
    with pytest.raises(InputError, match='transactions_train: column paidd, which the layout gives for price, is missing; found t_dat'):
        ingest(folder, tmp_path / 'data', layout | {'columns': {'price': 'paidd'}})


def test_a_column_serves_as_many_of_ours_as_the_layout_says(twin, copy_of, tmp_path):
    folder, layout = copy_of(twin), {'columns': {'product_code': 'prod_name', 'garment_group_no': 'code', 'section_no': 'code', 'section_name': 'code'}, 'digits': {'article_id': 10}, 'lower': ['customer_id']}
    change_rows(folder, 'articles.csv', lambda t: t.rename(columns={'product_code': 'code'})); ingest(folder, tmp_path / 'data', layout)
    items, raw = Dataset(tmp_path / 'data').item_frame.set_index('article_id'), pd.read_csv(folder / 'articles.csv', dtype=str).set_index('article_id')
    for ours, theirs in {'prod_name': 'prod_name', **layout['columns']}.items(): assert items[ours].equals(raw[theirs].reindex(items.index).rename(ours)), ours
    assert (items.section_idx == items.garment_group_idx).all() and items.product_idx.nunique() == raw.prod_name.reindex(items.index).nunique()


def test_all_purchases_on_one_day(twin, copy_of, tmp_path):
    folder = copy_of(twin)
    change_rows(folder, 'transactions_train.csv', lambda t: t.assign(t_dat='2020-09-20'))
    ingest(folder, tmp_path / 'data')
    with pytest.raises(InputError, match='at least 3 are needed'): plan_periods(Dataset(tmp_path / 'data'))


def test_which_file_is_meant_is_known_or_asked(twin, copy_of, tmp_path):
    "Not the first of two, with the rows of the other lost; and letters of an ending are of any size."
    folder = copy_of(twin); table = folder / 'transactions_train.csv'; expected = ingest(folder, tmp_path / 'one')['fingerprint']
    pd.read_csv(table, dtype=str).to_parquet(folder / 'transactions_train.parquet')
    with pytest.raises(InputError, match='holds transactions_train.parquet, transactions_train.csv; expected one of them'): ingest(folder, tmp_path / 'two')
    (folder / 'transactions_train.parquet').unlink(); (folder / 'transactions_train').mkdir(); shutil.copy(table, folder / 'transactions_train/ALL.CSV')
    with pytest.raises(InputError, match='holds transactions_train.csv and the folder transactions_train; expected one of them'): ingest(folder, tmp_path / 'two')
    table.unlink(); assert ingest(folder, tmp_path / 'two')['fingerprint'] == expected


def test_zeros_go_before_numbers_alone(twin, copy_of, tmp_path):
    "`SKU-6` is no number that lost its zeros."
    folder = copy_of(twin)
    sku = {a: f'SKU-{n}' for n, a in enumerate(pd.read_csv(folder / 'articles.csv', dtype=str).article_id)}
    for name in ('articles.csv', 'transactions_train.csv'): frame = pd.read_csv(folder / name, dtype=str); frame.article_id = frame.article_id.map(sku); frame.to_csv(folder / name, index=False)
    ingest(folder, tmp_path / 'data'); assert set(pd.read_parquet(tmp_path / 'data/items').article_id) == set(sku.values())


def test_parquet_and_gzip_say_the_same_as_csv(twin, copy_of, tmp_path):
    expected = ingest(twin, tmp_path / 'csv')['fingerprint']
    folder = copy_of(twin)
    for name in FILES:
        table = pd.read_csv(folder / name, dtype=str)
        if name == 'articles.csv':
            with gzip.open(folder / f'{name}.gz', 'wt') as f: f.write((folder / name).read_text())
        else: table.to_parquet(folder / name.replace('.csv', '.parquet'))
        (folder / name).unlink()
    assert ingest(folder, tmp_path / 'parquet')['fingerprint'] == expected


def test_dates_are_days():
    assert to_day('1970-01-02') == 1
    with pytest.raises(InputError, match='expected YYYY-MM-DD'): to_day('2020-9-1x')


def test_parts_of_one_table_are_not_taken_for_corrections_of_one_another(twin, copy_of, tmp_path):
    "At once or one after the other; what is refused leaves the dataset as it was. By days, parts are files like any other."
    folder = copy_of(twin); rows = pd.read_csv(folder / 'transactions_train.csv', dtype=str); (folder / 'transactions_train.csv').unlink(); place = folder / 'transactions_train'; place.mkdir()
    for n in range(4): rows[n::4].to_csv(place / f'part-{n:05}.csv', index=False)
    with pytest.raises(InputError, match=r'part-00000\.csv, .*part-00003\.csv have purchases of the same day .* and \d+ more.* join them into one file'): ingest(folder, tmp_path / 'data')
    for n in (1, 2, 3): (place / f'part-{n:05}.csv').unlink()
    first = ingest(folder, tmp_path / 'data'); rows[1::4].to_csv(place / 'part-00001.csv', index=False)
    with pytest.raises(InputError, match=r'part-00000\.csv, .*part-00001\.csv have'): ingest(folder, tmp_path / 'data')
    assert Dataset(tmp_path / 'data').meta == first and ingest(folder, tmp_path / 'trusted', trust_corrections=True)['replaced'] > 0
    for path in place.iterdir(): path.unlink()
    middle = sorted(rows.t_dat)[len(rows) // 2]
    for name, part in (('a', rows[rows.t_dat < middle]), ('b', rows[rows.t_dat >= middle])): part.to_csv(place / f'{name}.csv', index=False)
    assert ingest(folder, tmp_path / 'data')['transactions'] == len(rows)


def test_a_correction_beside_parts_does_not_hide_them(twin, copy_of, tmp_path):
    "Small parts too, whether they come at once or one by one; the chain of corrections that was accepted step by step is accepted at once."
    folder = copy_of(twin); rows = pd.read_csv(folder / 'transactions_train.csv', dtype=str).drop_duplicates(['t_dat', 'customer_id', 'article_id']); (folder / 'transactions_train.csv').unlink()
    day = rows[rows.t_dat == rows.t_dat.value_counts().index[0]]; others = rows[rows.t_dat != day.t_dat.iloc[0]]; place = folder / 'transactions_train'; place.mkdir(); half = len(day) // 2
    def there(**files):
        for path in place.iterdir(): path.unlink()
        for name, part in files.items(): part.to_csv(place / f'{name}.csv', index=False)
    parts = dict(x1=day[:half], x2=day[half:])
    there(a=others, b=others[1:], **parts)
    with pytest.raises(InputError, match='x1.csv, .*x2.csv have purchases of the same day .* 0 are in the next'): ingest(folder, tmp_path / 'at_once')
    there(a=others, x1=parts['x1']); ingest(folder, tmp_path / 'grown'); parts['x2'].to_csv(place / 'x2.csv', index=False)
    with pytest.raises(InputError, match='x1.csv, .*x2.csv have'): ingest(folder, tmp_path / 'grown')
    step = len(day) // 3; chain = dict(x1=day[:2 * step], x2=day[step - 2:], x3=day[2 * step - 4:]); there(a=others, **chain); at_once = ingest(folder, tmp_path / 'chain')
    there(a=others)
    for name, part in chain.items(): part.to_csv(place / f'{name}.csv', index=False); grown = ingest(folder, tmp_path / 'chained')
    assert grown['fingerprint'] == at_once['fingerprint'] and grown['transactions'] == len(others) + len(chain['x3'])
