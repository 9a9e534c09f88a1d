"""One article, its picture, the lists that are the same for everybody, what a profile says, and what is kept and counted."""
import io, re

import numpy as np, pytest
from PIL import Image

from recsys_lib.refine import FILTERED, Filters
from serving.app import create_app
from serving.catalogue import PICTURES, picture

from .conftest import listed, pairs


def same_number(said, price):
    "The same float32, and no longer than it takes to tell it from others."
    return said is price is None or np.float32(said) == price and len(f'{said}') <= len(f'{price}')


@pytest.fixture(scope='module')
def pictured(bundle, recommender, tmp_path_factory):
    "A service with pictures of two articles."
    folder = tmp_path_factory.mktemp('images')
    for n in (0, 1):
        i = recommender.article_ids[n]; (folder / i[:3]).mkdir(exist_ok=True); Image.new('RGB', (9, 12), (10 * n, 20, 30)).save(folder / i[:3] / f'{i}.jpg')
    return create_app(dict(BUNDLE=str(bundle), IMAGES=str(folder), DEMO=True)).test_client()


def test_an_article(pictured, recommender):
    for n in (0, 1, 2, len(recommender.article_ids) - 1):
        i = recommender.article_ids[n]; said = pictured.get(f'/items/{i}').json; price = recommender.arrays['price'][n] if n < len(recommender.arrays['price']) else 0
        assert said.pop('article_id') == i and same_number(said.pop('price'), price if price > 0 else None) and said.pop('image') == (f'/items/{i}/image' if n < 2 else None)
        assert said == {c: t[n] for c, t in recommender.text.items()} and said['prod_name']
        answer = pictured.get(f'/items/{i}/image'); assert answer.status_code == (200 if n < 2 else 404)
        if n < 2: assert Image.open(io.BytesIO(answer.data)).size == (9, 12) and answer.content_type == 'image/jpeg' and 'max-age' in answer.headers['Cache-Control']


def test_an_id_is_no_number_and_a_picture_no_jpeg(bundle, recommender, tmp_path):
    "The kinds of file that `30_clip` learns from are shown, and nothing outside the folder."
    images, i = tmp_path / 'a/images', recommender.article_ids[0]; client = create_app(dict(BUNDLE=str(bundle), IMAGES=str(images), DEMO=True)).test_client()
    for folder in ('SKU', i[:3]): (images / folder).mkdir(parents=True)
    for place in (tmp_path, tmp_path / 'a'):
        for name in ('outside.jpg', '...jpg'): Image.new('RGB', (3, 4)).save(place / name, 'JPEG')  # where `../outside` and `..` would lead
    for suffix, kind in PICTURES.items():
        file = images / i[:3] / f'{i}{suffix}'; Image.new('RGB', (3, 4)).save(file); found = client.get(f'/items/{i}/image'); assert (found.status_code, found.content_type) == (200, kind)
        file.rename(images / f'SKU/SKU-6{suffix}')
        with client.application.app_context(): assert picture('SKU-6').suffix == suffix
        (images / f'SKU/SKU-6{suffix}').rename(file.with_suffix(suffix.upper())); assert client.get(f'/items/{i}/image').content_type == kind; file.with_suffix(suffix.upper()).unlink()
    with client.application.app_context(): assert [picture(i) for i in ('', '.', '..', '../outside', 'SKU/SKU-6', 'SKU-7', '\0', 'x' * 256)] == [None] * 8
    assert list(PICTURES) == list(pytest.importorskip('recsys_lib.clip').IMAGES)


@pytest.mark.parametrize('article', ['..', '..%2f..%2fetc%2fpasswd', '%2e%2e', 'x' * 256, '%00', '.', '0' * 10 + '.jpg'])
def test_articles_and_pictures_that_there_are_not(pictured, article):
    for address in (f'/items/{article}', f'/items/{article}/image'): assert pictured.get(address).status_code == 404


@pytest.mark.parametrize('address, source', [('/trending', 'popularity'), ('/new_in', 'newcomers')])
def test_lists_for_everybody(client, recommender, address, source):
    ids, scores = recommender.top(source, 12); assert listed(client.get(address).json) == pairs(ids[0], scores[0], recommender)
    section = recommender.catalogue.names['section'][recommender.catalogue.codes['section'][recommender.top('popularity', 1)[0][0, 0]]]
    answer = client.get(address, query_string=dict(section=section, k=5)).json; ids, scores = recommender.top(source, 5, Filters(section=(section,)))
    assert listed(answer) == pairs(ids[0], scores[0], recommender) and client.get(address + '?section=nope').status_code == 422


def test_what_the_filters_take(client, recommender):
    said = client.get('/filters').json
    assert same_number(said.pop('price_max'), recommender.arrays['price'].max())
    for attribute in FILTERED:
        assert said[attribute] == sorted(set(said[attribute])) and set(recommender.catalogue.names[attribute]) - {''} == set(said[attribute])
        assert client.get('/recommend/x', query_string={attribute: said[attribute][:3]}).status_code == 200


def test_a_profile(pictured, recommender, customers):
    "Is the history that recommendations come from; shares are of it, and prices its quartiles."
    said = pictured.get(f'/user_profile/{customers[3]}').json; h = recommender.customers(customers[3:4]); there = h.item[0] >= 0
    assert [recommender.item_index(d['article_id']) for d in said['history']] == h.item[0][there].tolist() and [d['days'] for d in said['history']] == h.age[0][there].tolist()
    sections = [recommender.catalogue.names['section'][recommender.catalogue.codes['section'][i]] for i in h.item[0][there]]
    for share in said['taste']['section']: assert share['share'] == pytest.approx(sections.count(share['name']) / len(sections))
    assert said['known'] and (said['price']['low'], said['price']['median'], said['price']['high']) == pytest.approx(tuple(np.quantile(h.price[0][there], (.25, .5, .75))))
    nobody = pictured.get('/user_profile/nobody').json
    assert nobody['known'] is False and nobody['history'] == [] and nobody['price'] is None and nobody['age'] is None and not any(nobody['taste'].values())
    longest = pictured.get('/customers?k=3').json['customers']; n = np.diff(recommender.histories.indptr)
    assert [n[recommender.user_index(c)] for c in longest] == sorted(n, reverse=True)[:3]


def counted(client): return {k: float(v) for k, v in re.findall(r'^(lookbook_\S+) (\S+)$', client.get('/metrics').text, re.M)}


def test_answers_are_kept_and_counted(bundle, recommender, customers):
    "A second answer is the first, without a step of it being done again; other parameters are another answer."
    client = create_app(dict(BUNDLE=str(bundle), CACHE_MB=1)).test_client(); ask = lambda query='': client.get(f'/recommend/{customers[5]}{query}')
    change = lambda before, after: {k: after[k] - before.get(k, 0) for k in after if 'created' not in k and 'bucket' not in k and 'sum' not in k and after[k] != before.get(k, 0)}
    start = counted(client); first = ask(); once = counted(client); again = ask(); twice = counted(client); other = ask('?k=3'); end = counted(client)
    assert first.data == again.data and len(other.json['recommendations']) == 3
    here = 'lookbook_request_seconds_count{endpoint="recommendations.for_customer"}'; steps = 'lookbook_step_seconds_count{step="ranker"}'
    assert change(start, once)[here] == change(start, once)[steps] == 1 and change(once, twice)[here] == 1 and steps not in change(once, twice) and change(twice, end)[steps] == 1
    assert change(once, twice)['lookbook_kept_answers_total{found="yes"}'] == 1
    proposed = {k: v for k, v in change(start, once).items() if k.startswith('lookbook_source_articles_total')}; assert max(proposed.values()) <= 12 <= sum(proposed.values())
    none = create_app(dict(BUNDLE=str(bundle), CACHE_MB=0)).test_client(); before = counted(none); none.get('/recommend/x'); none.get('/recommend/x')
    assert change(before, counted(none))[steps] == 2


def test_what_is_kept_is_bounded():
    from serving.kept import Kept
    kept = Kept(.001)
    for n in range(100): kept.put(n, b'x' * 100)
    assert kept.get(0) is None and kept.get(99) == b'x' * 100 and sum(kept.get(n) is not None for n in range(100)) == 10
    kept.put('large', b'x' * 2000); assert kept.get('large') is None
