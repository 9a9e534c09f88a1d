"""Files that went wrong on their way. Of each kind of damage it is known which rows are kept (exactly, by Python's own reading of what was not damaged), and
which are set aside, with file, line and reason; or the run stops and names the place."""
import csv, gzip, io, random, re, shutil
from collections import Counter
from dataclasses import dataclass, field
from datetime import date

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from recsys_lib.core import InputError, to_date
from recsys_lib.data import (HEADER, HM, REJECTS, TORN, UNKNOWN, Dataset, Layout, csv_records, entities, find_files, ingest, read_entities, reading, stage_sales,
                             workspace)

A, C, T = FILES = 'articles.csv', 'customers.csv', 'transactions_train.csv'
NOT_A_DATE, NOT_A_NUMBER = 't_dat is not a date YYYY-MM-DD', 'price is not a number'


@pytest.fixture(scope='module')
def good(twin, tmp_path_factory):
    "A week of 120 rows. The articles of lines 2 to 11 were never sold, the customers of lines 2 to 11 never bought."
    folder = tmp_path_factory.mktemp('good')
    table = {name: pd.read_csv(twin / name, dtype=str, keep_default_na=False) for name in FILES}
    sales = table[T][table[T].t_dat.between('2020-09-14', '2020-09-20')][:120]
    for name, key, columns in ((A, 'article_id', ['article_id', 'product_code', 'prod_name', 'colour_group_code', 'detail_desc']),
                               (C, 'customer_id', ['customer_id', 'age', 'club_member_status'])):
        t = table[name][columns]; used = t[key].isin(sales[key])
        t = pd.concat([t[~used][:20], t[used]]).reset_index(drop=True)
        if name == A: t['detail_desc'] = [f'Made of {n}, with a {hue} collar' for n, hue in zip(t.index, ['crème', 'red', 'white'] * len(t))]
        t.to_csv(folder / name, index=False)
    sales.to_csv(folder / T, index=False)
    return folder


def lines_of(folder, name=T):
    "The lines of a file, the header first: line n is item n - 1."
    return (folder / name).read_text(encoding='utf-8').splitlines()


def put(folder, name, lines, end='\n', encoding='utf-8', errors='strict'):
    (folder / name).write_bytes(''.join(line + end for line in lines).encode(encoding, errors))


def change(folder, name, changes):
    "Change some lines: number -> new line, or function of the old one."
    lines = lines_of(folder, name)
    for n, new in changes.items(): lines[n - 1] = new(lines[n - 1]) if callable(new) else new
    put(folder, name, lines, errors='surrogateescape')


def set_values(folder, name, column, values):
    "Put values, as they stand, into a column: line -> value."
    at = lines_of(folder, name)[0].split(',').index(column)
    def with_value(value): return lambda line: ','.join(value if i == at else v for i, v in enumerate(line.split(',')))
    change(folder, name, {n: with_value(v) for n, v in values.items()})


def table_of(folder, name): return pd.read_csv(folder / name, dtype=str, keep_default_na=False)


@dataclass
class Expected:
    "What becomes of a folder: lines of the good files that are lost, values that differ, and what is told."
    lost: dict = field(default_factory=dict)  # file -> lines of the good file
    rejects: list = field(default_factory=list)  # (file, line, reason)
    changed: dict = field(default_factory=dict)  # (file, line, column) -> value
    layout: Layout = HM


def of(name, reasons, **more):
    "The usual case: lines of a file are set aside with these reasons."
    return Expected({name: list(reasons)}, [(name, n, reason) for n, reason in reasons.items()], **more)


def rows_expected(good, name, expected):
    "Python's reading of the good file, without what is lost and with what is changed."
    rows = list(csv.DictReader(io.StringIO((good / name).read_text(encoding='utf-8'))))
    for (file, line, column), value in expected.changed.items():
        if file == name: rows[line - 2][column] = value
    return [row for n, row in enumerate(rows, 2) if n not in expected.lost.get(name, ())]


def number(text): return float(text) if text else None


def read(folder, layout=HM, names=FILES):
    "What the files hold, without the writing of a dataset: sales, articles, customers, rejects."
    con = workspace(folder / 'spill'); found = {'articles': (None, []), 'customers': (None, [])}; rejects = []
    for name in names[:-1]: found[name[:-4]] = read_entities(con, folder, name[:-4], layout, 1)
    entities(con, 'goods', 'good', 'article_id', None, '', found['articles'][0]); entities(con, 'people', 'person', 'customer_id', None, '', found['customers'][0])
    for path in find_files(folder, 'transactions_train', layout):
        with reading(path): rejects.append(stage_sales(con, path, 0, str(path.relative_to(folder)), layout, 1))
    sales = con.table('sales').join(con.table('people'), 'person').join(con.table('goods'), 'good').to_pyarrow().to_pylist()
    articles, customers = (found[t][0].to_pandas() if found[t][0] is not None else None for t in found)
    con.disconnect()
    rejects = pd.concat([t.to_pandas() for t in (*found['articles'][1], *found['customers'][1], *rejects) if t is not None] or [REJECTS.empty_table().to_pandas()])
    return Counter((to_date(r['day']), r['customer_id'], r['article_id'], r['price'], r['channel']) for r in sales), articles, customers, rejects


def written(folder, data, layout):
    "The same of a dataset that was written."
    meta, dataset = ingest(folder, data, layout, max_reject_share=1), Dataset(data)
    assert meta['rejected'] == Counter(dataset.rejects.file)
    t, users, items = dataset.transactions.execute(), dataset.user_frame, dataset.item_frame
    sales = Counter((to_date(d), users.customer_id[u], items.article_id[i], None if pd.isna(p) else p, c) for d, u, i, p, c in
                    zip(t.day, t.user_idx, t.item_idx, t.price, t.channel))
    return sales, items[items.listed], users[users.listed], dataset.rejects


def check(good, found, expected):
    sales, articles, customers, rejects = found
    assert sorted(zip(rejects.file, rejects.line, rejects.reason)) == sorted(expected.rejects) and (rejects.content.str.len() <= 10_000).all()
    assert sales == Counter((r['t_dat'][:10], r['customer_id'], r['article_id'], number(r['price']), int(r['sales_channel_id'] or 0)) for r in rows_expected(good, T, expected))
    assert sorted(zip(articles.article_id, articles.detail_desc, articles.colour_group_code)) == sorted(
        (r['article_id'], r['detail_desc'], r['colour_group_code']) for r in rows_expected(good, A, expected))
    assert sorted(zip(customers.customer_id, pd.to_numeric(customers.age).fillna(-1))) == sorted((r['customer_id'], number(r['age']) or -1) for r in rows_expected(good, C, expected))


KEPT, STOPS = {}, {}


def kept(case): KEPT[case.__name__] = case; return case


# Encodings and ends of lines

@kept
def a_latin_1_byte_in_a_row(d):
    change(d, T, {5: lambda s: s.replace('2020', '20\udce9')})
    return of(T, {5: 'not valid utf-8'})

@kept
def a_latin_1_byte_in_an_article(d):
    change(d, A, {4: lambda s: s.replace('collar', 'd\udce9collet\udce9')})
    return of(A, {4: 'not valid utf-8'})

@kept
def latin_1_with_a_layout(d):
    for name in FILES: put(d, name, lines_of(d, name), encoding='latin-1')
    return Expected(layout=Layout(encoding='latin-1'))

@kept
def utf_16_with_a_layout(d):
    set_values(d, T, 'price', {50: 'much'})
    for name in FILES: (d / name).write_bytes(b'\xff\xfe' + (d / name).read_text(encoding='utf-8').encode('utf-16-le'))
    return of(T, {50: NOT_A_NUMBER}, layout=Layout(encoding='utf-16'))

@kept
def a_byte_order_mark(d):
    for name in FILES: put(d, name, lines_of(d, name), encoding='utf-8-sig')
    return Expected()

def with_ends(*ends):
    def case(d):
        set_values(d, T, 'price', {50: 'much'}); set_values(d, C, 'age', {7: 'old'})
        for name in FILES: put(d, name, [line + ends[i % len(ends)] for i, line in enumerate(lines_of(d, name))], end='')
        return Expected({T: [50], C: [7]}, [(T, 50, NOT_A_NUMBER), (C, 7, 'age is not a number')])
    return case

KEPT |= {'carriage return and line feed': with_ends('\r\n'), 'carriage return alone': with_ends('\r'), 'line feed or carriage return': with_ends('\n', '\n', '\r'),
         'line feed or both, in turn': with_ends('\n', '\r\n'), 'both or line feed, in turn': with_ends('\r\n', '\n')}

@kept
def all_three_ends_of_lines(d):
    for name in FILES: put(d, name, [line + ('\r\n', '\r', '\n')[i % 3] for i, line in enumerate(lines_of(d, name))], end='')
    return Expected()

@kept
def a_carriage_return_within_a_row(d):
    set_values(d, T, 'price', {50: 'much'}); change(d, T, {8: lambda s: s[:30] + '\r' + s[30:]})
    return Expected({T: [8, 50]}, [(T, 8, '5 fields expected, 2 found'), (T, 9, '5 fields expected, 4 found'), (T, 51, NOT_A_NUMBER)])


# Quotes

@kept
def a_stray_quote_within_a_field(d):
    change(d, T, {7: lambda s: s[:20] + '"' + s[20:]}); change(d, C, {5: lambda s: s[:20] + '"' + s[20:]})
    return Expected({T: [7], C: [5]}, [(T, 7, TORN), (C, 5, TORN)])

@kept
def quotes_opened_and_never_closed(d):
    change(d, T, {4: lambda s: '"' + s, 30: lambda s: s[:-1] + '"2', 90: lambda s: s.replace(',', ',"', 1), 121: lambda s: s + '"'})
    return of(T, {n: TORN for n in (4, 30, 90, 121)})

@kept
def two_quotes_that_would_swallow_the_rows_between_them(d):
    change(d, T, {40: lambda s: s[:-1] + '"2', 60: lambda s: '2020-09-15",' + s.split(',', 1)[1]})
    return of(T, {40: TORN, 60: TORN})

@kept
def quotes_opened_in_articles_and_never_closed(d):
    change(d, A, {4: lambda s: '"' + s, 6: lambda s: s[:-1], 11: lambda s: s[:-1]}); change(d, C, {6: lambda s: '"' + s})
    return Expected({A: [4, 6, 11], C: [6]}, [(A, 4, TORN), (A, 6, TORN), (A, 11, TORN), (C, 6, TORN)])

@kept
def two_quotes_that_would_swallow_articles(d):
    plain = lambda s: s.replace('"', '').replace(', with', ' with')
    change(d, A, {4: lambda s: s[:-1], 5: plain, 6: plain, 7: lambda s: plain(s) + '"'})  # lines 4 to 7 are now one record of five fields
    return of(A, {4: TORN}, changed={(A, n, 'detail_desc'): lines_of(d, A)[n - 1].rsplit(',', 1)[1] for n in (5, 6, 7)})

@kept
def doubled_quotes(d):
    change(d, A, {4: lambda s: s.replace('Made', '""Made""')})
    change(d, T, {9: lambda s: ','.join(f'"{v}"' for v in s.split(',')), 10: lambda s: s.replace(',', ',"a ""b""",', 1)})
    return Expected({T: [10]}, [(T, 10, '5 fields expected, 6 found')], {(A, 4, 'detail_desc'): '"Made" of 2, with a white collar'})

@kept
def quotes_escaped_with_a_backslash(d):
    change(d, A, {4: lambda s: s.replace('Made', r'\"Made\"')}); change(d, T, {9: lambda s: r'"20\"20",' + s.split(',', 1)[1]})
    return Expected({A: [4], T: [9]}, [(A, 4, TORN), (T, 9, TORN)])

@kept
def text_after_a_closing_quote(d):
    change(d, A, {4: lambda s: s + ' x'}); change(d, T, {9: lambda s: s + ',"a" x', 12: lambda s: '"' + s[:10] + '"x' + s[10:]})
    return Expected({A: [4], T: [9, 12]}, [(A, 4, TORN), (T, 9, TORN), (T, 12, TORN)])

@kept
def everything_quoted_with_row_names_as_r_writes_it(d):
    for name in FILES: table_of(d, name).to_csv(d / name, quoting=csv.QUOTE_ALL)
    change(d, T, {50: lambda s: s + ',"x"'})
    return of(T, {50: '6 fields expected, 7 found'})


# Line breaks and separators within fields

@kept
def line_breaks_in_descriptions(d):
    again = lines_of(d, A)[14]
    change(d, A, {4: lambda s: s.replace(', with', '\n\nwith'), 6: lambda s: s.replace(', with', '\r\nwith')})
    text = (d / A).read_bytes(); (d / A).write_bytes(text + again.encode() + b'\n')  # its number counts the lines within the descriptions
    return Expected(rejects=[(A, text.count(b'\n') + 1, 'article_id is a duplicate')],
                    changed={(A, 4, 'detail_desc'): 'Made of 2\n\nwith a white collar', (A, 6, 'detail_desc'): 'Made of 4\r\nwith a red collar'})

@kept
def line_breaks_in_transactions(d):
    change(d, T, {9: lambda s: s.replace(',', ',"', 1)[:40] + '\n' + s[40:].replace(',', '",', 1), 20: lambda s: s[:40] + '\n' + s[40:]})
    return Expected({T: [9, 20]}, [(T, 9, TORN), (T, 10, TORN), (T, 21, '5 fields expected, 2 found'), (T, 22, '5 fields expected, 4 found')])

@kept
def prices(d):
    bad = {2: ('"1,234.50"', NOT_A_NUMBER), 3: ('"0,05"', NOT_A_NUMBER), 4: ('0,05', '5 fields expected, 6 found'), 5: ('-0.01', 'price is negative'), 6: ('NaN', NOT_A_NUMBER),
           7: ('inf', NOT_A_NUMBER), 8: ('-Infinity', NOT_A_NUMBER), 9: ('1e400', NOT_A_NUMBER), 10: ('cheap', NOT_A_NUMBER), 11: ('1_000', NOT_A_NUMBER), 12: ('1 000', NOT_A_NUMBER),
           13: ('0x10', NOT_A_NUMBER), 14: ('€5', NOT_A_NUMBER), 15: ('٣', NOT_A_NUMBER), 16: ('NULL', NOT_A_NUMBER), 17: ('1.234.50', NOT_A_NUMBER)}
    fine = {30: ('', ''), 31: ('""', ''), 32: (' 0.05 ', '.05'), 33: ('"0.05"', '.05'), 34: ('5', '5'), 35: ('.5', '.5'), 36: ('5e-2', '.05'), 37: ('0', '0'), 38: ('" 0.05"', '.05')}
    set_values(d, T, 'price', {n: v for n, (v, _) in (bad | fine).items()})
    return of(T, {n: reason for n, (_, reason) in bad.items()}, changed={(T, n, 'price'): v for n, (_, v) in fine.items()})


# Dates

@kept
def dates(d):
    bad = dict.fromkeys(['20/09/2020', '09/20/2020', '2020-02-30', '2020-13-01', '2020-09-1', '2020-9-15', '2020/09/15', '20200915', '2020-09-15x', '2020-09-15 25:99', 'epoch',
                         'infinity', 'NULL', '44089', '15.09.2020', '20-09-15'], NOT_A_DATE) | {'2999-01-01': 't_dat is in the future', '1969-12-31': 't_dat is before 1970', '': 't_dat is empty'}
    fine = ['2020-09-15 18:30:00', '2020-09-15T18:30:00', '2020-09-15T18:30:00Z', '"2020-09-15"', ' 2020-09-15 ']
    set_values(d, T, 't_dat', dict(enumerate([*bad, *fine], 2)))
    return of(T, dict(enumerate(bad.values(), 2)), changed={(T, len(bad) + 2 + i, 't_dat'): '2020-09-15' for i in range(len(fine))})

@kept
def dates_of_a_layout(d):
    t = table_of(d, T); t['t_dat'] = pd.to_datetime(t.t_dat).dt.strftime('%d/%m/%Y'); t.to_csv(d / T, index=False)
    set_values(d, T, 't_dat', {5: '2020-09-15', 6: '09/20/2020', 7: '30/02/2020', 8: ''})
    wrong = 't_dat is not a date %d/%m/%Y'
    return of(T, {5: wrong, 6: wrong, 7: wrong, 8: 't_dat is empty'}, layout=Layout(date_format='%d/%m/%Y'))


# Ids

@kept
def ids_that_lost_their_zero(d):
    for name in (A, T): t = table_of(d, name); t['article_id'] = t.article_id.str.lstrip('0'); t.to_csv(d / name, index=False)
    return Expected()

@kept
def ids_in_upper_case(d):
    change(d, T, {n: str.upper for n in range(10, 60)}); set_values(d, C, 'customer_id', {n: lines_of(d, C)[n - 1].split(',')[0].upper() for n in (3, 30)})
    return Expected()

@kept
def ids_of_another_shop_as_they_are(d):
    t = table_of(d, T); ids = t.customer_id[8].upper(), t.article_id[8].lstrip('0')
    set_values(d, T, 'customer_id', {10: ids[0]}); set_values(d, T, 'article_id', {20: ids[1]})
    return of(T, {20: UNKNOWN}, changed={(T, 10, 'customer_id'): ids[0]}, layout=Layout(delimiter=','))

@kept
def unknown_and_empty_ids(d):
    set_values(d, T, 'article_id', {5: '9999999999', 6: '', 7: 'null', 8: '01087750150'}); set_values(d, T, 'customer_id', {10: '', 11: '" "'})
    return of(T, {5: UNKNOWN, 6: 'article_id is empty', 7: UNKNOWN, 8: UNKNOWN, 10: 'customer_id is empty', 11: 'customer_id is empty'})

@kept
def articles_and_customers_that_are_there_twice(d):
    articles, customers = lines_of(d, A), lines_of(d, C)
    put(d, A, articles + [articles[20], articles[1][1:].replace('Made', 'Remade')])
    put(d, C, [customers[0], customers[1].split(',')[0], customers[1].replace(',', ',old', 1), *customers[1:], customers[5].upper()])
    return Expected(rejects=[(A, len(articles) + 1, 'article_id is a duplicate'), (A, len(articles) + 2, 'article_id is a duplicate'), (C, 2, '3 fields expected, 1 found'),
                             (C, 3, 'age is not a number'), (C, len(customers) + 3, 'customer_id is a duplicate')])


# Columns, delimiters, compression, Parquet

@kept
def empty_optional_values(d):
    set_values(d, T, 'sales_channel_id', {5: '', 6: '""'}); set_values(d, C, 'age', {5: '', 6: '" "'}); set_values(d, A, 'colour_group_code', {5: '7'})
    return Expected(changed={(T, 5, 'sales_channel_id'): '', (T, 6, 'sales_channel_id'): '', (C, 5, 'age'): '', (C, 6, 'age'): '', (A, 5, 'colour_group_code'): '7'})

@kept
def wrong_ages(d):
    set_values(d, C, 'age', {5: 'old', 6: '-3', 7: '"3,5"'})
    return of(C, {5: 'age is not a number', 6: 'age is negative', 7: 'age is not a number'})

def delimited(by):
    def case(d):
        for name in FILES: table_of(d, name).to_csv(d / name, index=False, sep=by)
        change(d, T, {6: lambda s: by.join(f'"{v}"' for v in s.split(by)[:4]) + by, 7: lambda s: s + by, 8: lambda s: by + s.split(by, 1)[1]})
        return of(T, {7: '5 fields expected, 6 found', 8: 't_dat is empty'}, changed={(T, 6, 'sales_channel_id'): ''}, layout=Layout(delimiter=by))
    return case

KEPT |= {f'delimiter {by!r} with a layout': delimited(by) for by in ';\t|^'}

@kept
def columns_with_names_of_ours_or_without(d):
    for name in FILES:
        t = table_of(d, name)
        for column in ('line', 'content', 'Malformed', 'reason', 'known', 'good', 'person', 'value', 'first_day', 'listed', 'item_idx', 'user_idx', 'colour_idx'): t[column] = 'x'
        put(d, name, [',' + line + ',' for line in t.to_csv(index=False).splitlines()])
    set_values(d, T, 'price', {5: 'much'})
    return of(T, {5: NOT_A_NUMBER})

@kept
def another_shops_names(d):
    shutil.move(d / A, d / 'products.csv'); (d / 'orders').mkdir(); shutil.move(d / T, d / 'orders/1.csv')
    change(d, 'products.csv', {1: lambda s: s.replace('article_id', 'id')})
    change(d, 'orders/1.csv', {1: 'ordered_on,client,sku,paid,shop,article_id', **{n: lambda s: s + ',mine' for n in range(2, 122)}})
    change(d, C, {1: lambda s: s.replace('customer_id', 'client')}); set_values(d, 'orders/1.csv', 'paid', {5: 'much'}); set_values(d, 'orders/1.csv', 'sku', {7: 'none'})
    columns = {'t_dat': 'ordered_on', 'customer_id': 'client', 'article_id': 'sku', 'articles.article_id': 'id', 'price': 'paid', 'sales_channel_id': 'shop'}
    return Expected({T: [5, 7]}, [('orders/1.csv', 5, 'paid is not a number'), ('orders/1.csv', 7, 'sku is not in the products file')], layout=Layout.from_profile({'files': {'articles': 'products', 'transactions_train': 'orders'}, 'columns': columns}))

@kept
def gzip_in_two_members(d):
    for name in FILES:
        text = (d / name).read_bytes(); (d / name).unlink()
        (d / f'{name}.gz').write_bytes(gzip.compress(text[:2000]) + gzip.compress(text[2000:]))
    return Expected()

def parquet(layout, **types):
    def case(d):
        for name in FILES:
            t = table_of(d, name)
            if name == T: t['price'] = t.price.astype(float); t['t_dat'] = types['date'](pd.to_datetime(t.t_dat)); t['sales_channel_id'] = t.sales_channel_id.astype('int64')
            if name == T: t.loc[7, 'price'] = -1.; t.loc[9, 't_dat'] = None
            if 'article_id' in t: t['article_id'] = t.article_id.astype('int64')
            if name == C: t['age'] = pd.to_numeric(t.age)
            t.to_parquet(d / name.replace('.csv', '.parquet')); (d / name).unlink()
        file = 'transactions_train.parquet'
        return Expected({T: [9, 11]}, [(file, 8, 'price is negative'), (file, 10, 't_dat is empty')], layout=layout)
    return case

KEPT |= {'parquet with dates': parquet(HM, date=lambda t: t.dt.date), 'parquet with times': parquet(HM, date=lambda t: t),
         'parquet with dates, the layout of text': parquet(Layout(date_format='%d.%m.%Y', digits={'article_id': 10}), date=lambda t: t.dt.date)}


# Lines

@kept
def huge_fields(d):
    change(d, T, {6: lambda s: s + 'x' * 1_500_000}); change(d, A, {4: lambda s: s.replace('Made', 'Made' * 50_000), 6: lambda s: s.replace('Made', 'Made' * 30_000)})
    return Expected({T: [6], A: [4]}, [(T, 6, 'sales_channel_id is not a number: 1 for a store, 2 for the web (layout: channels)'), (A, 4, 'a field is longer than 131,072 characters')],
                    {(A, 6, 'detail_desc'): 'Made' * 30_000 + ' of 4, with a red collar'})

@kept
def null_bytes(d):
    for name in FILES: change(d, name, {6: lambda s: s[:12] + '\0' + s[12:]})
    return Expected({name: [6] for name in FILES}, [(name, 6, 'holds a null byte') for name in FILES])

@kept
def too_few_or_too_many_fields(d):
    for name in FILES: change(d, name, {6: lambda s: s[:8], 7: lambda s: s + ',', 8: lambda s: s + ',x'})
    n = {A: 5, C: 3, T: 5}
    return Expected({name: [6, 7, 8] for name in FILES}, [(name, line, f'{n[name]} fields expected, {found} found') for name in FILES for line, found in ((6, 1), (7, n[name] + 1), (8, n[name] + 1))])

@kept
def blank_lines(d):
    for name in FILES:
        lines = lines_of(d, name); put(d, name, [lines[0], '', *lines[1:5], '', '', '  ', *lines[5:], '', ''])
    set_values(d, T, 'price', {50: 'much'})
    return Expected({T: [46]}, [*((name, 9, f'{n} fields expected, 1 found') for name, n in ((A, 5), (C, 3), (T, 5))), (T, 50, NOT_A_NUMBER)])

@kept
def files_put_together_with_their_headers(d):
    for name in FILES: lines = lines_of(d, name); put(d, name, [*lines[:5], lines[0], *lines[5:9], '\ufeff' + lines[0], *lines[9:], lines[0]])
    n = {name: len(lines_of(d, name)) for name in FILES}
    return Expected(rejects=[(name, line, HEADER) for name in FILES for line in (6, 11, n[name])])

@kept
def files_cut_in_mid_row(d):
    n, last = {name: len(lines_of(d, name)) for name in FILES}, lines_of(d, A)[-1][:10]
    for name in FILES: text = (d / name).read_bytes(); (d / name).write_bytes(text[:-10] if name == A else text[:text.rindex(b'\n', 0, -1) + 30])
    sold = [i for i, line in enumerate(lines_of(d, T), 1) if last in line]  # its description is torn, so it is not known
    return Expected({A: [n[A]], C: [n[C]], T: [*sold, n[T]]}, [(A, n[A], TORN), (C, n[C], '3 fields expected, 1 found'), (T, n[T], '5 fields expected, 2 found'),
                                                               *((T, line, UNKNOWN) for line in sold)])


# These go all the way; for the others it is enough to see what is read
WRITTEN = {'a_latin_1_byte_in_a_row', 'utf_16_with_a_layout', 'line_breaks_in_descriptions', 'articles_and_customers_that_are_there_twice', 'empty_optional_values',
           'columns_with_names_of_ours_or_without', 'another_shops_names', 'parquet with dates'}


@pytest.mark.parametrize('case', KEPT)
def test_nothing_is_lost(good, copy_of, tmp_path, case):
    folder = copy_of(good); expected = KEPT[case](folder)
    check(good, written(folder, tmp_path / 'data', expected.layout) if case in WRITTEN else read(folder, expected.layout), expected)


def test_an_empty_column_is_as_if_it_were_not_there(good, copy_of, tmp_path):
    folder = copy_of(good)
    table_of(good, T).assign(price='').to_csv(folder / T, index=False); empty = ingest(folder, tmp_path / 'empty')
    table_of(good, T).drop(columns='price').to_csv(folder / T, index=False)
    assert ingest(folder, tmp_path / 'without')['fingerprint'] == empty['fingerprint'] and empty['rejected'] == {}


# What stops the run: the damage, the layout, what the message must say

def as_gzip(name, damage):
    def case(d):
        (d / f'{name}.gz').write_bytes(damage(bytearray(gzip.compress((d / name).read_bytes())))); (d / name).unlink()
    return case

def flip(at):
    def damage(packed): packed[at] ^= 255; return packed
    return damage

def encoded(encoding, mark=b'', names=FILES):
    def case(d):
        for name in names: (d / name).write_bytes(mark + (d / name).read_text(encoding='utf-8').encode(encoding))
    return case

def separated(by):
    def case(d): table_of(d, T).to_csv(d / T, index=False, sep=by)
    return case

def as_parquet(name, damage):
    def case(d):
        file = d / name.replace('.csv', '.parquet'); table_of(d, name).to_parquet(file); (d / name).unlink()
        file.write_bytes(damage(bytearray(file.read_bytes())))
    return case

def changed(name, changes): return lambda d: change(d, name, changes)
def values(name, column, value): return lambda d: set_values(d, name, column, dict.fromkeys(range(2, len(lines_of(d, name)) + 1), value))

UTF_16, NOT_READ = {'encoding': 'utf-16'}, 'cannot be read to its end'
STOPS = {
    'UTF-16 without a layout': (encoded('utf-16-le', b'\xff\xfe', [T]), {}, f'{T}: column t_dat is missing', 'is the file UTF-16? (layout: encoding)'),
    'UTF-16 without its mark': (encoded('utf-16-le'), UTF_16, f'{A}: {NOT_READ}'),
    'UTF-16, high bytes first': (encoded('utf-16-be', b'\xfe\xff'), UTF_16, f'{C}: this UTF-16 has its high bytes first'),
    'UTF-8 for UTF-16': (lambda d: None, UTF_16, f'{A}: {NOT_READ}'),
    'latin-1 all over': (lambda d: table_of(d, T).assign(customer_id='Jos\udce9').to_csv(d / T, index=False, errors='surrogateescape'), {}, f'{T}: 120 of 120', 'not valid utf-8'),
    'gzip cut off': (as_gzip(T, lambda b: b[:-500]), {}, f'{T}.gz: {NOT_READ}'),
    'gzip cut off, articles': (as_gzip(A, lambda b: b[:-500]), {}, f'{A}.gz: {NOT_READ}'),
    'gzip without its last bytes': (as_gzip(T, lambda b: b[:-4]), {}, f'{T}.gz: {NOT_READ}'),
    'gzip with a wrong checksum': (as_gzip(T, flip(-8)), {}, f'{T}.gz: {NOT_READ}', 'CRC'),
    'gzip with a wrong byte': (as_gzip(T, flip(1500)), {}, f'{T}.gz: {NOT_READ}'),
    'gzip with a wrong byte, customers': (as_gzip(C, flip(1500)), {}, f'{C}.gz: {NOT_READ}'),
    **{f'{name}.gz that is not gzip': (lambda d, name=name: shutil.move(d / name, d / f'{name}.gz'), {}, f'{name}.gz: {NOT_READ}', 'gzip') for name in FILES},
    'Parquet cut off': (as_parquet(T, lambda b: b[:-100]), {}, f'transactions_train.parquet: {NOT_READ}'),
    'Parquet cut off, articles': (as_parquet(A, lambda b: b[:-100]), {}, f'articles.parquet: {NOT_READ}'),
    'Parquet with bytes lost': (as_parquet(T, lambda b: b[:60] + b'\xff' * 3000 + b[3060:]), {}, f'transactions_train.parquet: {NOT_READ}'),
    'CSV called Parquet': (lambda d: shutil.move(d / C, d / 'customers.parquet'), {}, f'customers.parquet: {NOT_READ}'),
    'Parquet called CSV': (lambda d: table_of(d, T).to_parquet(d / T), {}, f'{T}: column t_dat is missing'),
    'dates all empty': (values(T, 't_dat', ''), {}, f'{T}: 120 of 120 rows', '120 x t_dat is empty, such as line 2'),
    'American dates': (values(T, 't_dat', '09/20/2020'), {}, f'{T}: 120 of 120 rows', f"120 x {NOT_A_DATE}, such as line 2: '09/20/2020"),
    'dates of another format': (values(T, 't_dat', '09/20/2020'), {'date_format': '%d/%m/%Y'}, f'{T}: 120 of 120 rows', 't_dat is not a date %d/%m/%Y'),
    'two formats of dates': (lambda d: set_values(d, T, 't_dat', dict.fromkeys(range(3, 9), '20/09/2020')), {}, f'{T}: 6 of 120 rows', f"6 x {NOT_A_DATE}, such as line 3: '20/09/2020"),
    'decimal commas': (values(T, 'price', '"0,05"'), {}, f'{T}: 120 of 120 rows', NOT_A_NUMBER),
    'decimal commas without quotes': (values(T, 'price', '0,05'), {}, f'{T}: 120 of 120 rows', '5 fields expected, 6 found'),
    **{f'delimiter {by!r}': (separated(by), {}, f'{T}: column t_dat is missing', f'is the delimiter {by!r}? (layout: delimiter)') for by in ';\t|'},
    'comma for a semicolon': (lambda d: None, {'delimiter': ';'}, f'{A}: column article_id is missing', "is the delimiter ','? (layout: delimiter)"),
    'an endless line': (changed(T, {6: lambda s: s + 'x' * 3_000_000}), {}, f'{T}: line 6 is longer than 2,000,000 bytes'),
    'a line longer than any buffer': (changed(C, {6: lambda s: s + 'x' * 40_000_000}), {}, f'{C}: line 6 is longer than 2,000,000 bytes'),
    'a column twice': (changed(T, {1: lambda s: s.replace('price', 't_dat')}), {}, f"{T}: column 't_dat' is there 2 times"),
    'a column twice but for its case': (changed(C, {1: lambda s: s.replace('club_member_status', 'AGE')}), {}, f"{C}: column 'age' is there 2 times"),
    'columns in upper case': (changed(T, {1: str.upper}), {}, f'{T}: column t_dat is missing; found T_DAT'),
    'no header': (lambda d: put(d, T, lines_of(d, T)[1:]), {}, f'{T}: column t_dat is missing; found 2020-09-1'),
    'an empty first line': (lambda d: put(d, T, ['', *lines_of(d, T)]), {}, f'{T}: column t_dat is missing'),
    'only blank lines': (lambda d: put(d, T, [lines_of(d, T)[0], '', '']), {}, f'{T}: no rows below the header'),
    'no articles': (lambda d: put(d, A, lines_of(d, A)[:1]), {}, f'{A}: no rows below the header'),
    'a picture': (lambda d: (d / T).write_bytes(bytes(range(256)) * 40), {}, f'{T}: column t_dat is missing'),
    'layout: a setting that is not known': (lambda d: None, {'separator': ';'}, 'layout: separator is not known'),
    'layout: a table that is not known': (lambda d: None, {'files': {'sales': 'orders'}}, 'layout: files: sales is not known'),
    'layout: a column that is not known': (lambda d: None, {'columns': {'colour': 'hue'}}, 'layout: columns: colour is not known'),
    'layout: a table of a column that is not known': (lambda d: None, {'columns': {'sales.price': 'paid'}}, 'layout: columns: sales is not known'),
    'layout: a column of another table': (lambda d: None, {'columns': {'customers.price': 'paid'}}, 'layout: columns: customers.price is not known', 'transactions_train.price'),
    'layout: a price that is not there': (lambda d: None, {'columns': {'price': 'paidd'}}, f'{T}: column paidd, which the layout gives for price, is missing; found t_dat, customer_id'),
    'layout: a text that is not there': (lambda d: None, {'columns': {'prod_name': 'titel'}}, f'{A}: column titel, which the layout gives for prod_name, is missing; found article_id'),
    'layout: an age that is not there': (lambda d: None, {'columns': {'customers.age': 'years'}}, f'{C}: column years, which the layout gives for age, is missing; found customer_id'),
    'layout: an id that is not known': (lambda d: None, {'digits': {'sku': 8}}, 'layout: digits: sku is not known'),
    'layout: an encoding that is not known': (lambda d: None, {'encoding': 'ebcdic'}, 'layout: encoding ebcdic: expected utf-8'),
    'layout: two characters between columns': (lambda d: None, {'delimiter': '||'}, "layout: delimiter '||': expected one character"),
    'layout: a format that says no day': (lambda d: None, {'date_format': 'DD.MM.YYYY'}, "layout: date_format 'DD.MM.YYYY': expected day, month and year"),
    'layout: a word': (lambda d: None, 'hm', "layout: 'hm': expected"),
}


@pytest.mark.parametrize('case', STOPS)
def test_the_run_stops_and_names_the_place(good, copy_of, tmp_path, case):
    damage, layout, *said = STOPS[case]
    folder = copy_of(good); damage(folder)
    with pytest.raises(InputError) as told: ingest(folder, tmp_path / 'data', layout)
    assert all(part in str(told.value) for part in said), told.value
    assert not (tmp_path / 'data').exists()


# Any damage

BYTES = [bytes([b]) for b in b'\0\t\n\r ",;\'\\-.:0129aZ_\xff\xe9\xc3'] + ['é'.encode(), b'""', b'\r\n', b'","']
DAMAGES = st.lists(st.tuples(st.integers(0, 39), st.floats(0, 1), st.sampled_from(['put', 'set', 'cut', 'swap']), st.sampled_from(BYTES)), min_size=1, max_size=25)


def damaged(lines, damages):
    for row, place, what, new in damages:
        line = lines[row]; at = int(place * len(line))
        if what == 'put': lines[row] = line[:at] + new + line[at:]
        if what == 'set': lines[row] = line[:at] + new + line[at + 1:]
        if what == 'cut': lines[row] = line[:at] + line[at + 1 + len(line) // 7 * (new < b'5'):]
        if what == 'swap': lines[row] = line.replace(b',', new)
    return lines


def in_python(line):
    "A line of transactions as Python reads it, or None."
    try: fields = [f.strip() for f in next(csv.reader([line.decode()], strict=True))]
    except (UnicodeDecodeError, csv.Error, StopIteration): return None
    if len(fields) != 5: return None
    try: day, price, channel = date.fromisoformat(fields[0][:10]).isoformat(), number(fields[3]), float(fields[4] or 0)
    except ValueError: return None
    return day, fields[1].lower(), fields[2].rjust(10, '0'), price, round(channel) if abs(channel) < 128 else 0


@given(DAMAGES, st.sampled_from([b'\n', b'\r\n']))
@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_to_transactions(good, tmp_path, damages, end):
    shutil.copy(good / A, tmp_path / A)
    first, *lines = (good / T).read_bytes().splitlines()[:41]
    after = damaged(list(lines), damages)
    untouched = Counter(in_python(line) for line, new in zip(lines, after) if line == new)
    path = tmp_path / T; path.write_bytes(b''.join(line + end for line in [first, *after]))
    physical = [line for line in re.split(rb'\r\n|\r|\n', path.read_bytes())][1:]
    try: rows, _, _, rejects = read(tmp_path, names=[A, T])
    except InputError: return
    assert rows.total() + len(rejects) == sum(line != b'' for line in physical)
    assert untouched <= rows <= Counter(map(in_python, physical))
    text = path.read_bytes()
    if text.count(b'\r\n') in (0, text.count(b'\r')):  # where CR, LF and CR LF all end lines, lines are counted otherwise
        for line, content in zip(rejects.line, rejects.content): assert physical[line - 2].decode(errors='replace') == content or '?' in content


@given(st.lists(st.sampled_from(['a', 'b', '12', ',', ',', '"', '"', '\n', '\n', '\r\n', '\r', ' ', '""', 'é']), max_size=80))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_damage_to_articles(parts):
    lines = io.StringIO(''.join(['id,b\n', *parts]), newline='').readlines()
    found = list(csv_records(lines, key=0)); covered = set()
    for start, text, fields, wrong in found:
        assert (fields is None) == (wrong is not None)
        n = len(io.StringIO(text, newline='').readlines()) or 1
        assert ''.join(lines[start:start + n]).rstrip('\r\n') == text and not covered & set(range(start, start + n))
        covered |= set(range(start, start + n))
    assert {i for i, line in enumerate(lines) if line.strip('\r\n')} <= covered
    try: whole = [r for r in csv.reader(lines, strict=True) if r]
    except csv.Error: return
    if all(len(r) == 2 for r in whole) and not any('\n' in v or '\r' in v for r in whole for v in r): assert [f for _, _, f, _ in found] == whole


# Damage to a dataset that grows: whatever order files come in, it is what one ingest of the folder makes

@pytest.fixture
def growing(twin, tmp_path):
    "A folder of weekly files with one week, and the rest of the material. One article that is sold is not in articles.csv yet."
    sales = table_of(twin, T); sales = sales[sales.t_dat >= '2020-09-07'][::4].assign(price=lambda t: t.price.where(t.index % 37 > 0, 'cheap'))
    folder = tmp_path / 'weekly'; (folder / 'transactions_train').mkdir(parents=True)
    articles, customers = table_of(twin, A)[['article_id', 'product_code', 'colour_group_code']], table_of(twin, C)[['customer_id', 'age', 'club_member_status']]
    weeks = [week for _, week in sales.groupby(pd.to_datetime(sales.t_dat).dt.to_period('W'))]
    late = weeks[0].article_id[weeks[0].price != 'cheap'].mode()[0]
    articles[articles.article_id != late].to_csv(folder / A, index=False); customers.to_csv(folder / C, index=False)
    weeks[0].to_csv(folder / 'transactions_train/week0.csv', index=False)
    return folder, weeks, articles, customers, late


def parts(folder): return sorted((folder / 'transactions_train').iterdir())

def add_week(folder, weeks, articles, customers, late, rng):
    missing = [n for n in range(len(weeks)) if not (folder / f'transactions_train/week{n}.csv').exists()]
    if missing: n = rng.choice(missing); weeks[n].to_csv(folder / f'transactions_train/week{n}.csv', index=False)

def add_copy(folder, weeks, articles, customers, late, rng):
    shutil.copy(rng.choice(parts(folder)), folder / f"transactions_train/{rng.choice(['a', 'w', 'z'])}_copy.csv")

def add_correction(folder, weeks, articles, customers, late, rng):
    week = pd.read_csv(rng.choice(parts(folder)), dtype=str, keep_default_na=False)
    day = week[week.t_dat == rng.choice(sorted(set(week.t_dat)))]
    day[rng.randrange(2):].assign(sales_channel_id='2').to_csv(folder / f'transactions_train/{rng.choice("az")}{rng.randrange(100)}.csv', index=False)

def add_article(folder, weeks, articles, customers, late, rng): articles.to_csv(folder / A, index=False)

def describe_articles_anew(folder, weeks, articles, customers, late, rng):
    now = table_of(folder, A); now.loc[now.index % 5 == rng.randrange(5), 'colour_group_code'] = '77'; now.to_csv(folder / A, index=False)

def remove_unsold_articles(folder, weeks, articles, customers, late, rng):
    sold = pd.concat(weeks).article_id; now = table_of(folder, A); now[now.article_id.isin(sold) | (now.index % 3 == 0)].to_csv(folder / A, index=False)

def change_customers(folder, weeks, articles, customers, late, rng):
    now = customers.assign(age=customers.age.where(customers.index % 7 != rng.randrange(7), '33'))
    now[now.index % 4 != rng.randrange(4)].to_csv(folder / C, index=False)

def remove_customers(folder, weeks, articles, customers, late, rng): (folder / C).unlink(missing_ok=True)

def remove_file(folder, weeks, articles, customers, late, rng):
    if len(parts(folder)) > 1: rng.choice(parts(folder)[1:]).unlink()

STEPS = [add_week, add_copy, add_correction, add_article, describe_articles_anew, remove_unsold_articles, change_customers, remove_customers, remove_file]


def content(data):
    meta, rejects = Dataset(data).meta, Dataset(data).rejects
    return {k: meta[k] for k in ('fingerprint', 'transactions', 'users', 'items', 'owners', 'rejected', 'parts')}, sorted(rejects.itertuples(index=False, name=None))


@pytest.mark.parametrize('half', range(2))
def test_a_dataset_that_grew_is_what_one_ingest_makes(growing, tmp_path, half, monkeypatch):
    monkeypatch.setattr('recsys_lib.data.BLOCK', 16)  # so that small tables have many blocks, of which some stay
    rng = random.Random(0); steps = rng.sample([*STEPS, add_correction], len(STEPS) + 1)
    ingest(growing[0], tmp_path / 'grown', max_reject_share=.9)
    for n, step in enumerate(steps[half::2]):
        step(*growing, rng); ingest(growing[0], tmp_path / 'grown', max_reject_share=.9)
        ingest(growing[0], tmp_path / f'anew{n}', max_reject_share=.9)
        assert content(tmp_path / 'grown') == content(tmp_path / f'anew{n}'), step.__name__
        assert ingest(growing[0], tmp_path / 'grown', max_reject_share=.9) == Dataset(tmp_path / 'grown').meta


def test_an_article_that_came_late_brings_its_rows_in(growing, tmp_path):
    folder, weeks, articles, _, late = growing
    before = ingest(folder, tmp_path / 'data', max_reject_share=.9)
    known = Dataset(tmp_path / 'data').rejects
    add_article(*growing, None); after = ingest(folder, tmp_path / 'data', max_reject_share=.9)
    waiting = (known.reason == UNKNOWN).sum()
    assert waiting and after['transactions'] == before['transactions'] + waiting and after['replaced'] == 0
    assert sorted(Dataset(tmp_path / 'data').rejects.line) == sorted(known.line[known.reason != UNKNOWN])


def test_an_article_that_left_its_file_keeps_its_sales_and_its_description(growing, tmp_path):
    folder, weeks, articles, _, late = growing
    articles.to_csv(folder / A, index=False); before = ingest(folder, tmp_path / 'data', max_reject_share=.9)
    articles[articles.article_id != late].to_csv(folder / A, index=False)
    weeks[1].to_csv(folder / 'transactions_train/week1.csv', index=False)
    after = ingest(folder, tmp_path / 'data', max_reject_share=.9)
    item = Dataset(tmp_path / 'data').item_frame.set_index('article_id').loc[late]
    assert after['transactions'] == before['transactions'] + (weeks[1].price != 'cheap').sum() and UNKNOWN not in set(Dataset(tmp_path / 'data').rejects.reason)
    assert not item.listed and item.colour_group_code == articles.set_index('article_id').colour_group_code[late]
