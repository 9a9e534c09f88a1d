"""The service says what `Recommender` says of articles that go together, and refuses what cannot be asked."""
import shutil

import numpy as np, pytest

from recsys_lib.core import InputError, read_json
from recsys_lib.bundle import Recommender
from serving.app import create_app

from .conftest import listed, pairs, reseal
from .test_problems import refused

OUTFIT = '/complete_the_outfit'


def some_articles(recommender): return list(range(len(recommender.article_ids) - 1, -1, -max(1, len(recommender.article_ids) // 100)))  # from the end: never sold ones too


def test_bought_together(client, recommender):
    "Each article's answer is `Recommender`'s, asked for one or for many, with support and lift of each pair."
    articles = some_articles(recommender)
    ids, scores = recommender.frequently_bought_together(articles, 5); support, lift = recommender.evidence(articles, ids)
    for n, article in enumerate(articles):
        answer = client.get(f'/frequently_bought_together/{recommender.article_ids[article]}?k=5').json
        assert listed(answer) == pairs(ids[n], scores[n], recommender) != [] and answer['article_id'] == recommender.article_ids[article]
        assert [(r['support'], r['lift']) for r in answer['recommendations']] == [(int(s), float(l)) for s, l, i in zip(support[n], lift[n], ids[n]) if i >= 0]
        assert all(r['evident'] == (r['support'] >= 2 and r['lift'] > 1) for r in answer['recommendations'])
        assert answer['article_id'] not in dict(listed(answer)) and answer['bundle'] == recommender.version
    assert support.max() >= 2


def test_outfits(client, recommender):
    "So is each cart's; nothing in it is of the cart, and the cart's order does not matter."
    rng = np.random.default_rng(0); catalogue = len(recommender.article_ids)
    carts = [rng.integers(0, catalogue, rng.integers(1, 6)).tolist() for _ in range(100)] + [list(range(min(100, catalogue)))]
    ids, scores = recommender.complete_the_outfit(carts)
    for cart, i, s in zip(carts, ids, scores):
        names = [recommender.article_ids[c] for c in cart]
        answer = client.post(OUTFIT, json=dict(items=names)).json
        assert listed(answer) == pairs(i, s, recommender) and not set(dict(listed(answer))) & set(names)
        assert listed(client.post(OUTFIT, json=dict(items=names[::-1] * (len(names) < 50) + names[:1] if len(names) < 50 else names)).json) == listed(answer)
    assert (ids[:, 0] >= 0).mean() > .9


@pytest.mark.parametrize('k', [1, 5, 'most'])
def test_k(client, recommender, k):
    most = recommender.retriever.settings.candidates; k = most if k == 'most' else k; article = recommender.article_ids[0]
    for answer in (client.get(f'/frequently_bought_together/{article}?k={k}'), client.post(OUTFIT, json=dict(items=[article], k=k))):
        assert answer.status_code == 200 and 0 < len(answer.json['recommendations']) <= k and 'NaN' not in answer.text and 'Infinity' not in answer.text
        assert len(set(dict(listed(answer.json)))) == len(answer.json['recommendations'])


@pytest.mark.parametrize('question, field', [('k=0', 'k'), ('k=1.5', 'k'), ('k=', 'k'), ('k=9999999', 'k'), ('k=5&k=5', 'k'), ('by=look', 'by'), ('floor=1', 'floor')])
def test_bad_questions_about_an_article(client, recommender, question, field):
    refused(client.get(f'/frequently_bought_together/{recommender.article_ids[0]}?{question}'), 422, field)


@pytest.mark.parametrize('article', ['1', '-1', 'x', '%00', '..%5C..', 'NaN', '%F0%9F%91%97'])
def test_an_unknown_article(client, article):
    refused(client.get(f'/frequently_bought_together/{article}'), 404, 'article_id', 'an article of the catalogue')


def test_an_id_too_long(client): refused(client.get('/frequently_bought_together/' + '1' * 257), 422, 'article_id', 'at most 256')


@pytest.mark.parametrize('body, status, field, expected', [
    ('', 400, 'body', 'a JSON object'), ('{', 400, 'body', 'valid JSON'), ('[]', 422, 'body', 'an object'), ('{}', 422, 'items', 'a list of 1 to 100'),
    ('{"items": []}', 422, 'items', 'a list of 1 to 100'), ('{"items": null}', 422, 'items', 'a list'), ('{"items": "x"}', 422, 'items', 'a list'), ('{"items": {}}', 422, 'items', 'a list'),
    ('{"items": [1]}', 422, 'items[0]', ''), ('{"items": [null]}', 422, 'items[0]', ''), ('{"items": [["x"]]}', 422, 'items[0]', ''), ('{"items": [{"article_id": "x"}]}', 422, 'items[0]', ''),
    ('{"items": ["nothing of ours"]}', 422, 'items[0]', 'an article of the catalogue'), ('{"items": [""]}', 422, 'items[0]', 'an article of the catalogue'),
    ('{"items": ["x"], "k": 0}', 422, 'k', 'an integer from 1'), ('{"items": ["x"], "k": "5"}', 422, 'k', 'an integer from 1'), ('{"items": ["x"], "k": true}', 422, 'k', 'an integer from 1'),
    ('{"items": ["x"], "question": "group"}', 422, 'question', 'one of'), ('{"items": [' + ', '.join(['"x"'] * 101) + ']}', 422, 'items', 'a list of 1 to 100')])
def test_bad_carts(client, body, status, field, expected):
    refused(client.post(OUTFIT, data=body, content_type='application/json'), status, field, expected)


def test_which_article_is_unknown(client, recommender):
    "All of them are named, by their place."
    said = refused(client.post(OUTFIT, json=dict(items=[recommender.article_ids[0], 'x', recommender.article_ids[1], 'y'])), 422, 'items[1]', 'an article of the catalogue')
    assert [e['field'] for e in said['errors']] == ['items[1]', 'items[3]']


def test_what_is_no_json_and_other_methods(client, recommender):
    refused(client.post(OUTFIT, data='items=1', content_type='text/plain'), 415, 'Content-Type')
    refused(client.post(OUTFIT + '?k=3', json=dict(items=[recommender.article_ids[0]])), 422, 'k', 'no parameters')
    assert client.get(OUTFIT).status_code == 405 and client.post(f'/frequently_bought_together/{recommender.article_ids[0]}').status_code == 405


def test_a_bundle_without_complements(bundle, tmp_path):
    "Says so, in the library and in the service, and answers everything else."
    folder = tmp_path / bundle.name; shutil.copytree(bundle, folder); manifest = read_json(folder / 'manifest.json')
    for name in [n for n in manifest['files'] if n.startswith(('together_', 'outfit_'))]: del manifest['files'][name]; (folder / name).unlink()
    reseal(folder, manifest)
    recommender = Recommender(folder); client = create_app(dict(BUNDLE=str(folder))).test_client(); article = recommender.article_ids[0]
    for ask in (lambda: recommender.frequently_bought_together([0]), lambda: recommender.complete_the_outfit([[0]])):
        with pytest.raises(InputError, match='knows no complements'): ask()
    for answer in (client.get(f'/frequently_bought_together/{article}'), client.post(OUTFIT, json=dict(items=[article]))): assert 'knows no complements' in refused(answer, 404)['detail']
    assert client.get(f'/similar_items/{article}').status_code == 200
