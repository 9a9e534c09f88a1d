"""Filters keep k where k exist, what was just seen stands back, and every reason is one."""
import json, os

import numpy as np, pytest

from recsys_lib.core import InputError, to_date
from recsys_lib.refine import FILTERED, Filters, bought, in_cart, just_viewed
from serving.app import create_app

from .conftest import listed, pairs
from .test_problems import refused


def ids_of(recommender, items): return {recommender.article_ids[int(i)] for i in np.ravel(items) if i >= 0}


def draw(rng, recommender):
    "Filters as a request brings them, and the ids of the articles that pass, each tested by itself."
    c, given = recommender.catalogue, {}; ids = [recommender.article_ids[i] for i in range(len(c))]; some = lambda p: rng.random() < p
    for a in FILTERED:
        if some(.25): given[a] = [str(n) for n in rng.choice(sorted(set(c.names[a])), rng.integers(1, 3))]
    low, high = np.sort(rng.choice(c.price, 2)).tolist()
    given |= {name: value for name, value in dict(price_min=low, price_max=high).items() if some(.3)}
    given |= {name: [str(i) for i in rng.choice(ids, n)] + ['unheard of'] for name, n in dict(exclude=5, in_stock=len(ids) // 3).items() if some(.3)}
    named = lambda a, i: c.names[a][c.codes[a][i]] if c.codes[a][i] >= 0 else None
    passes = lambda i: (all(named(a, i) in given[a] for a in FILTERED if a in given) and ids[i] not in given.get('exclude', ()) and ('in_stock' not in given or ids[i] in given['in_stock'])
                        and (not given.keys() & {'price_min', 'price_max'} or c.price[i] > 0 and given.get('price_min', 0) <= c.price[i] <= given.get('price_max', 1e9)))
    return given, {ids[i] for i in range(len(ids)) if passes(i)}


def test_visitors_within_filters(client, recommender, visitors):
    rng, short = np.random.default_rng(5), 0
    for visitor in visitors[:150]:
        given, passing = draw(rng, recommender); k = int(rng.integers(1, 40)); history = recommender.visitors([visitor['items']], [visitor.get('age')])
        passing -= ids_of(recommender, in_cart(history))
        if rng.random() < .5: given['exclude_bought'] = True; passing -= {e['article_id'] for e in visitor['items'] if e.get('kind', 'purchase') == 'purchase'}
        found = listed(client.post('/recommend', json=dict(visitor, filters=given, k=k)).json); short += len(passing) < k
        assert {i for i, _ in found} <= passing and len(dict(found)) == len(found) == min(k, len(passing)), given
        assert [s for _, s in found] == sorted((s for _, s in found), reverse=True)
    assert 0 < short < 150


def test_customers_within_filters(client, recommender, customers):
    "In a query an attribute is given once for each name."
    rng = np.random.default_rng(6)
    for customer in [*customers[:60], 'nobody']:
        given, passing = draw(rng, recommender)
        if given.pop('in_stock', None): continue
        history = recommender.customers([customer])
        if rng.random() < .5: given['exclude_bought'] = 'true'; passing -= ids_of(recommender, bought(history))
        answer = client.get(f'/recommend/{customer}', query_string=given).json
        assert {i for i, _ in listed(answer)} <= passing and len(listed(answer)) == min(12, len(passing)), given


def test_filters_of_all_at_once(recommender, customers):
    "A batch equals one by one, also where each has other articles that pass."
    history = recommender.customers(customers[:80]); section = recommender.catalogue.names['section'][0]
    for filters, diversity in ((Filters(exclude_bought=True), 0.), (Filters(section=section), .2), (Filters(in_stock=np.arange(0, 200, 2), price_max=.04), 0.), (None, .4)):
        ids, scores = recommender.recommend(history, 12, None, filters, diversity)
        one = [recommender.recommend(history[[b]], 12, None, filters, diversity) for b in range(len(history))]
        assert np.array_equal(ids, np.concatenate([i for i, _ in one])) and np.array_equal(scores, np.concatenate([s for _, s in one]))


def test_nothing_asked_nothing_done(client, recommender, customers):
    for wish in ({}, dict(diversity=0), dict(exclude_bought='false'), dict(explain='false')):
        for customer in customers[:20]: assert listed(client.get(f'/recommend/{customer}', query_string=wish).json) == listed(client.get(f'/recommend/{customer}').json)


def test_names_are_those_of_the_shop(client, recommender):
    name = recommender.catalogue.names['section'][0]
    plain = listed(client.get('/recommend/nobody', query_string=dict(section=name)).json)
    assert plain and plain == listed(client.get('/recommend/nobody', query_string=dict(section=name.upper())).json)
    assert plain == listed(client.post('/recommend', json=dict(items=[], filters=dict(section=[name]))).json)


def test_diversity(client, recommender, customers):
    vectors = recommender.arrays['content']
    def alike(diversity):
        of = [[recommender.item_index(i) for i, _ in listed(client.get(f'/recommend/{c}', query_string=dict(diversity=diversity)).json)] for c in customers[:30]]
        return np.mean([(vectors[row] @ vectors[row].T)[np.triu_indices(len(row), 1)] for row in of])
    assert alike(0) > alike(.3) > alike(1)


# -- what was just seen

def test_the_cart_is_not_recommended(client, recommender):
    first = lambda *items, k=12: [i for i, _ in listed(client.post('/recommend', json=dict(items=list(items), k=k)).json)]
    plain = first(); most = recommender.settings.candidates
    assert not set(first(*(dict(article_id=i, kind='cart') for i in plain))) & set(plain)
    assert len(first(*(dict(article_id=i, kind='cart') for i in plain), k=most)) == min(most, len(recommender.catalogue) - 12)
    left = [dict(article_id=plain[0], kind='cart'), dict(article_id=plain[0], kind='purchase')]
    assert plain[0] in first(*left, k=most)  # it left the cart


def test_what_was_viewed_stands_back(client, recommender, visitors):
    "At most one in four, never among the first three: as long as there is something else."
    shown = 0
    for visitor in visitors[:150]:
        history = recommender.visitors([visitor['items']], [visitor.get('age')]); viewed = ids_of(recommender, just_viewed(history))
        found = [i in viewed for i, _ in listed(client.post('/recommend', json=visitor).json)]; shown += sum(found)
        assert all(sum(found[:n]) <= n // 4 for n in range(1, 13))
    best = listed(client.post('/recommend', json=dict(items=[], k=8)).json); look = [dict(article_id=i, kind='view') for i, _ in best]
    again = [i for i, _ in listed(client.post('/recommend', json=dict(items=look)).json)]
    assert all(len(set(again[:n]) & set(dict(best))) <= n // 4 for n in range(1, 13)) and again
    assert shown or set(again) & set(dict(best))
    yesterday = [dict(e, date=to_date(recommender.asof - 1)) for e in look] + [dict(article_id=recommender.article_ids[0], kind='view')]
    assert just_viewed(recommender.visitors([yesterday])).max() == 0  # only what was viewed today


# -- reasons

def test_reasons(client, recommender, visitors):
    names = recommender.session.get_modelmeta().custom_metadata_map['features'].split(','); told = 0
    for n, visitor in enumerate(visitors[:40]):
        asked = dict(visitor, explain=True, k=5, **(dict(filters=dict(price_max=.03)) if n % 3 == 0 else {}))
        answer = client.post('/recommend', json=asked); plain = client.post('/recommend', json=dict(asked, explain=False)).json
        assert 'NaN' not in answer.text and listed(answer.json) == listed(plain) and 'why' not in str(plain)
        did = {e['article_id'] for e in visitor['items']}
        for r in answer.json['recommendations']:
            why = r['why']; told += len(why['history'])
            assert why['sources'] and all(s['words'] and s['source'] in recommender.retriever.sources for s in why['sources'])
            assert len(why['features']) <= 3 and all(f['feature'] in names and np.isfinite(f['value']) and f['effect'] and f['words'] for f in why['features'])
            assert [abs(f['effect']) for f in why['features']] == sorted((abs(f['effect']) for f in why['features']), reverse=True)
            assert all(h['article_id'] in did and h['pull'] > 0 and h['kind'] in ('purchase', 'view', 'cart') for h in why['history']) and len(why['history']) <= 3
    assert told
    assert all(r['why']['history'] == [] for r in client.post('/recommend', json=dict(items=[], explain=True)).json['recommendations'])


def test_only_what_was_seen_is_explained(recommender):
    history = recommender.customers(['nobody']); out = recommender.recommend(history, filters=Filters(exclude=[0]))[0]
    assert [t['item'] for t in recommender.explain(history, out, None, Filters(exclude=[0]))[0]] == out[0].tolist()
    with pytest.raises(InputError, match='not among the candidates'): recommender.explain(history, [[0]], None, Filters(exclude=[0]))


# -- what is asked wrongly

@pytest.mark.parametrize('field, value, expected', [(field, value, expected) for field, expected, values in [
    ('filters', 'an object', ['null', '[]', '3', '"section"', 'true']),
    ('filters.colour', 'one of index_group, section', ['"red"', '[]']),
    ('filters.section', 'one of ', ['["Pets"]', '["Womens Everyday Basic", "x"]', '[""]', '["\\u0000"]', '["%s"]' % ('x' * 250)]),
    ('filters.department', 'a list of at most 100 names', ['"Blouse"', '[3]', '[null]', '{}', 'null', 'true', json.dumps(['x'] * 101)]),
    ('filters.price_min', 'a number from 0', ['-1', '"5"', 'NaN', 'Infinity', '[]', 'true', '1e10']),
    ('filters.price_max', 'or from price_min', ['-1', '"5"', 'NaN', '1e999', 'false']),
    ('filters.exclude_bought', 'true or false', ['1', '"true"', 'null', '[]']),
    ('filters.exclude', 'a list of at most 1,000', ['"0108775015"', 'null', '{}', json.dumps(['1'] * 1001), '[3]', '[null]', '["%s"]' % ('1' * 257)]),
    ('filters.in_stock', 'a list of at most 20,000 article ids, or true', ['"all"', '[3]', '1', 'null', '{}']),
    ('filters.in_stock', 'no list of its own (LOOKBOOK_STOCK)', ['true']),
    ('diversity', 'a number from 0 to 1', ['-0.1', '1.1', 'NaN', '"0.5"', 'null', 'true', '[]']),
    ('explain', 'true or false', ['1', '"true"', 'null', '"yes"'])] for value in values])
def test_fields(client, field, value, expected):
    for part in field.split('.')[::-1]: value = f'{{"{part}": {value}}}'
    problem = refused(client.post('/recommend', data='{"items": [], ' + value[1:], content_type='application/json'), 422, field, expected)
    assert len(problem['errors']) == 1 and len(problem['errors'][0]['expected']) < 2000


@pytest.mark.parametrize('query, field, expected', [
    ('section=Pets', 'section', 'one of '), ('section=', 'section', 'one of '), ('price_min=cheap', 'price_min', 'a number'), ('price_min=5&price_max=4', 'price_max', 'or from price_min'),
    ('price_min=1&price_min=2', 'price_min', 'one value'), ('diversity=2', 'diversity', 'a number from 0 to 1'), ('diversity=nan', 'diversity', 'a number from 0 to 1'),
    ('explain=maybe', 'explain', 'true or false'), ('exclude_bought=', 'exclude_bought', 'true or false'), ('in_stock=true', 'in_stock', 'LOOKBOOK_STOCK'), ('filters=x', 'filters', 'one of k'),
    ('exclude=' + 'x' * 300, 'exclude', 'a list of at most 1,000')])
def test_queries(client, query, field, expected): refused(client.get(f'/recommend/nobody?{query}'), 422, field, expected)


def test_a_refused_name_is_shown_what_is_like_it(client, recommender):
    name = max(recommender.catalogue.names['section'], key=len)
    problem = refused(client.get('/recommend/nobody', query_string=dict(section=name[:-1])), 422, 'section', name)
    expected = problem['errors'][0]['expected']; inside = sum(n.count(', ') for n in recommender.catalogue.names['section'] if n in expected)
    assert len(expected.split(', ')) - inside <= 13


# -- what the shop has in stock

def test_stock(bundle, recommender, tmp_path):
    file = tmp_path / 'stock.txt'; top = [i for i, _ in pairs(*(a[0] for a in recommender.recommend(recommender.customers(['nobody']))), recommender)]
    file.write_text('\n'.join(top[:3] + ['unheard of'])); client = create_app(dict(BUNDLE=str(bundle), STOCK=str(file))).test_client()
    ask = lambda: {i for i, _ in listed(client.get('/recommend/nobody?in_stock=true').json)}
    assert ask() == set(top[:3]) == {i for i, _ in listed(client.post('/recommend', json=dict(items=[], filters=dict(in_stock=True))).json)}
    file.write_text('\n'.join(top[:5])); os.utime(file, (1, 1)); assert ask() == set(top[:5])  # read again
    file.unlink(); assert ask() == set(top[:5])  # being replaced
    assert len(listed(client.get('/recommend/nobody').json)) == 12


@pytest.mark.parametrize('content', [None, b'\xff\xfe\x00'])
def test_no_stock_does_not_start(bundle, tmp_path, content):
    if content: (tmp_path / 'stock').write_bytes(content)
    with pytest.raises(InputError, match='LOOKBOOK_STOCK: .*stock: expected a text file'): create_app(dict(BUNDLE=str(bundle), STOCK=str(tmp_path / 'stock')))


@pytest.mark.parametrize('address', ['/similar_items/', '/frequently_bought_together/'])
def test_lists_beside_an_article_within_filters(client, recommender, address):
    "As many as pass where there are as many, all of them within the filters; an article that was never sold too."
    names, codes = recommender.catalogue.names['index_group'], recommender.catalogue.codes['index_group']
    for i in (0, 7, len(recommender.article_ids) - 1):
        for name in names[:2]:
            n = int((codes == names.index(name)).sum()) - int(i < len(codes) and names[codes[i]] == name)
            found = client.get(f'{address}{recommender.article_ids[i]}', query_string=dict(index_group=name, k=30)).json['recommendations']
            assert all(names[codes[recommender.item_index(r['article_id'])]] == name for r in found) and recommender.article_ids[i] not in [r['article_id'] for r in found]
            if 'similar' in address: assert len(found) == min(30, n)
    answer = client.post('/complete_the_outfit', json=dict(items=[recommender.article_ids[0]], k=5, filters=dict(index_group=[names[0]])))
    assert all(names[codes[recommender.item_index(r['article_id'])]] == names[0] for r in answer.json['recommendations'])
