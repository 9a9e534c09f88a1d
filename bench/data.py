"""`make bench-data`: the ingest at H&M's full size, beside a bare read in DuckDB and beside chunked pandas, in one run.

Every measurement is a process of its own, so that its peak memory is its own. Times are noisy: read the ratios.
"""
import argparse, json, resource, shutil, subprocess, sys, time
from datetime import date, timedelta
from itertools import islice
from pathlib import Path

HERE = Path(__file__).resolve().parent
SLICE = 3_000_000  # rows for the comparison with pandas


# -- what is measured: each takes a raw folder and an empty one to write into

def lookbook(raw, out):
    "Validate, set aside, index, sort, write, digest."
    from recsys_lib.data import ingest
    return ingest(raw, out / 'data')['transactions']


def bare_duckdb(raw, out):
    "Read and encode, and nothing else: what the engine costs by itself."
    import duckdb
    con = duckdb.connect(config=dict(memory_limit='3GB', temp_directory=str(out)))
    con.execute(f"""CREATE TABLE t AS FROM read_csv('{raw}/transactions_train.csv', types={{'t_dat': DATE, 'customer_id': VARCHAR, 'article_id': VARCHAR}})""")
    for column in ('customer_id', 'article_id'):
        con.execute(f'''CREATE TABLE {column}s AS SELECT {column}, (row_number() OVER (ORDER BY first, {column}) - 1)::INT AS i
                        FROM (SELECT {column}, min(t_dat) AS first FROM t GROUP BY {column})''')
    con.execute(f"""COPY (SELECT t_dat, u.i AS user_idx, a.i AS item_idx, price, sales_channel_id FROM t JOIN customer_ids u USING (customer_id)
                    JOIN article_ids a USING (article_id) ORDER BY ALL) TO '{out}/t.parquet'""")
    return con.execute(f"SELECT count(*) FROM '{out}/t.parquet'").fetchone()[0]


def chunked_pandas(raw, out, chunk=500_000):
    "The same work as one would write it in pandas: text in, a reason for every bad row, ids encoded, sorted, one Parquet a week, and a digest."
    import numpy as np
    import pandas as pd
    text = dict(dtype=str, keep_default_na=False)
    articles, customers = pd.read_csv(raw / 'articles.csv', **text), pd.read_csv(raw / 'customers.csv', **text)
    for table, key in ((articles, 'article_id'), (customers, 'customer_id')): table.drop(table.index[(table[key] == '') | table[key].duplicated()], inplace=True)
    known, people, parts, bad, line = pd.Index(articles.article_id), {}, [], [], 2
    for t in pd.read_csv(raw / 'transactions_train.csv', chunksize=chunk, **text):
        reason = pd.Series('', t.index); customer, article = t.customer_id.str.strip().str.lower(), t.article_id.str.strip().str.zfill(10)
        date, price = pd.to_datetime(t.t_dat, errors='coerce', format='%Y-%m-%d'), pd.to_numeric(t.price, errors='coerce')
        item = known.get_indexer(article)
        for wrong, why in ((date.isna(), 't_dat is not a date'), (date > pd.Timestamp.today(), 't_dat is in the future'), (customer == '', 'customer_id is empty'),
                           (price.isna() & (t.price != ''), 'price is not a number'), (price < 0, 'price is negative'), (item < 0, 'article_id is not in the articles file')):
            reason[wrong & (reason == '')] = why
        good = (reason == '').to_numpy(); bad.append(t[~good].assign(line=line + np.flatnonzero(~good), reason=reason[~good]))
        person = customer.map(lambda c: people.setdefault(c, len(people)))
        parts.append(pd.DataFrame(dict(day=(date.to_numpy().astype('datetime64[D]').astype('int64')).astype('int32'), person=person.to_numpy('int32'), item=item.astype('int32'), price=price.to_numpy(),
                                       channel=pd.to_numeric(t.sales_channel_id, errors='coerce').fillna(0).to_numpy('int8')))[good]); line += len(t)
    sales = pd.concat(parts, ignore_index=True); pd.concat(bad).to_parquet(out / 'rejects.parquet')
    for column, ids in (('person', pd.Series(list(people))), ('item', pd.Series(known))):
        first = sales.groupby(column).day.min().reindex(range(len(ids)), fill_value=2 ** 31 - 1)
        order = pd.DataFrame(dict(first=first, id=ids)).sort_values(['first', 'id']).index.to_numpy()
        index = np.empty(len(order), 'int32'); index[order] = np.arange(len(order)); sales[column] = index[sales[column]]
    sales = sales.sort_values(['day', 'person', 'item', 'price', 'channel'])
    for week, rows in sales.groupby((sales.day + 3) // 7):
        rows.to_parquet(out / f'{week}.parquet', index=False); pd.util.hash_pandas_object(rows, index=False).sum()
    articles.to_parquet(out / 'items.parquet'); customers.to_parquet(out / 'users.parquet')
    return len(sales)


MEASURED = dict(lookbook=lookbook, bare_duckdb=bare_duckdb, chunked_pandas=chunked_pandas)


# -- measuring

def measure(name, raw, folder):
    "Run one of the above in a process of its own: seconds of work (imports apart), peak memory in GB, rows."
    out = folder / 'out'; shutil.rmtree(out, ignore_errors=True); out.mkdir(parents=True)
    done = subprocess.run([sys.executable, __file__, '--measure', name, str(raw), str(out)], capture_output=True, text=True)
    if done.returncode: sys.exit(f'{name} failed:\n{done.stderr}')
    shutil.rmtree(out)
    return json.loads(done.stdout.splitlines()[-1])


def head(raw, folder, rows):
    "The first so many transactions of a folder, its articles, and as large a share of its customers."
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(raw / 'articles.csv', folder / 'articles.csv')
    share = rows / max(rows, sum(1 for _ in open(raw / 'transactions_train.csv', 'rb')))
    n_customers = round(share * sum(1 for _ in open(raw / 'customers.csv', 'rb')))
    for name, n in (('customers.csv', n_customers), ('transactions_train.csv', rows)):
        with open(raw / name, 'rb') as f, open(folder / name, 'wb') as g: g.writelines(islice(f, n + 1))
    return folder


def weekly(raw, folder):
    "A folder like another with its transactions in one file a week. They must be in the order of their dates."
    (folder / 'transactions_train').mkdir(parents=True, exist_ok=True)
    for name in ('articles.csv', 'customers.csv'): shutil.copy(raw / name, folder / name)
    day, out = None, None
    with open(raw / 'transactions_train.csv') as f:
        first = f.readline()
        for line in f:
            if line[:10] != day:
                day = line[:10]; d = date.fromisoformat(day); monday = d - timedelta(d.weekday()); path = folder / f'transactions_train/{monday}.csv'
                if out is None or out.name != str(path):
                    if out: out.close()
                    out = open(path, 'w'); out.write(first)
            out.write(line)
    out.close()
    return folder


def row(task, result, beside=None):
    "A line of the table."
    ratio = f"{result['seconds'] / beside['seconds']:8.2f}" if beside else ''
    print(f"{task:<44}{result['rows']:>12,}{result['seconds']:>9.1f} s{result['peak_gb']:>8.2f} GB {ratio}", flush=True)


def main(data, work, repeats):
    raw = data
    if raw is None:
        raw = work / 'twin-hm'
        if not (raw / 'transactions_train.csv').exists():
            from recsys_lib.twin import draw_twin
            print('drawing the twin at full size, once'); draw_twin(raw, 'hm', n_images=0)
    size = (raw / 'transactions_train.csv').stat().st_size
    print(f'{raw}: transactions_train.csv has {size / 1e9:.2f} GB\n{"":<44}{"rows":>12}{"wall":>11}{"peak":>11}    ratio')
    full = measure('bare_duckdb', raw, work); row('bare DuckDB: read, encode, sort, write', full)
    ours = measure('lookbook', raw, work); row('lookbook: validate, ingest, digest', ours, full)
    part, pairs = head(raw, work / 'slice', SLICE), []
    row('slice: bare DuckDB', measure('bare_duckdb', part, work))
    for i in range(repeats):
        pairs.append([measure(name, part, work) for name in ('chunked_pandas', 'lookbook')])
        row(f'slice, run {i + 1}: chunked pandas', pairs[-1][0]); row(f'slice, run {i + 1}: lookbook', pairs[-1][1], pairs[-1][0])
    faster = sorted(a['seconds'] / b['seconds'] for a, b in pairs)[len(pairs) // 2]
    print(f'lookbook is {faster:.1f} times as fast as chunked pandas on {SLICE:,} rows (median of {repeats})')
    incremental(raw, work)


def incremental(raw, work):
    "A week added to a quarter of the weeks, and the last week to all of the others."
    from recsys_lib.data import ingest
    parts = weekly(raw, work / 'weekly'); files = sorted((parts / 'transactions_train').glob('*.csv')); out = work / 'weekly-data'
    shutil.rmtree(out, ignore_errors=True)
    for n in (len(files) // 4, len(files) - 1):
        for path in files[n:]: path.rename(path.with_suffix('.later'))
        base = ingest(parts, out)
        files[n].with_suffix('.later').rename(files[n])
        start = time.perf_counter(); meta = ingest(parts, out); seconds = time.perf_counter() - start
        print(f"a week of {meta['transactions'] - base['transactions']:,} rows added to {base['transactions']:,}: {seconds:.1f} s", flush=True)
        for path in files[n + 1:]: path.with_suffix('.later').rename(path)
    print('one by one and all at once are the same:', ingest(parts, work / 'at-once')['fingerprint'] == meta['fingerprint'])
    for folder in (parts, out, work / 'at-once'): shutil.rmtree(folder)


if __name__ == '__main__':
    if sys.argv[1:2] == ['--measure']:
        name, raw, out = sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
        if name == 'lookbook': import recsys_lib.data  # noqa: F401 - imports are not the ingest's time
        start, cpu = time.perf_counter(), time.process_time(); rows = MEASURED[name](raw, out)
        print(json.dumps(dict(rows=rows, seconds=time.perf_counter() - start, cpu=time.process_time() - cpu, peak_gb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** 20)))
    else:
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument('data', nargs='?', type=Path, help='folder of CSV files; left out: the twin at full size')
        parser.add_argument('--work', type=Path, default=HERE.parent / 'reports/runs/bench', help='where to write; what is drawn stays there')
        parser.add_argument('--repeats', type=int, default=3)
        given = parser.parse_args()
        missing = [name for name in ('articles.csv', 'customers.csv', 'transactions_train.csv') if given.data and not (given.data / name).exists()]  # pandas and DuckDB alone read H&M's names only
        if missing: parser.error(f'{given.data / missing[0]} is missing; expected a folder of CSV files in the layout of H&M')
        given.work.mkdir(parents=True, exist_ok=True)
        main(given.data, given.work, given.repeats)
