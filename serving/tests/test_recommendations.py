"""The service says what `Recommender` says, to the bit."""
import json

import numpy as np, pytest

from recsys_lib.core import to_date

from .conftest import listed, pairs


def test_customers(client, recommender, customers):
    "Each customer's answer is `Recommender`'s, whether it was asked for one or for all at once."
    customers = customers[:300]; ids, scores = recommender.recommend(recommender.customers(customers))
    for n, customer in enumerate(customers):
        answer = client.get(f'/recommend/{customer}').json
        one, its = recommender.recommend(recommender.customers([customer]))
        assert listed(answer) == pairs(one[0], its[0], recommender) == pairs(ids[n], scores[n], recommender)
        assert len(answer['recommendations']) == 12 and answer['known'] is True and answer['customer_id'] == customer
        assert all(np.float32(r['score']) == r['score'] for r in answer['recommendations'])


def test_visitors(client, recommender, visitors):
    "So is each anonymous visitor's."
    visitors = visitors[:300]; history = recommender.visitors([v['items'] for v in visitors], [v.get('age') for v in visitors])
    ids, scores = recommender.recommend(history)
    for n, visitor in enumerate(visitors):
        answer = client.post('/recommend', json=visitor).json
        one, its = recommender.recommend(recommender.visitors([visitor['items']], [visitor.get('age')]))
        assert listed(answer) == pairs(one[0], its[0], recommender) == pairs(ids[n], scores[n], recommender), visitor
        assert answer['known'] == bool((history.item[n] >= 0).any()) and 'customer_id' not in answer


@pytest.mark.parametrize('by', ['look', 'behaviour', 'both'])
def test_similar_items(client, recommender, by):
    articles = range(len(recommender.article_ids) - 1, -1, -max(1, len(recommender.article_ids) // 200))  # from the end: never sold ones too
    ids, scores = recommender.similar_items(list(articles), by=by)
    for n, article in enumerate(articles):
        answer = client.get(f'/similar_items/{recommender.article_ids[article]}?by={by}').json
        assert listed(answer) == pairs(ids[n], scores[n], recommender) and answer['article_id'] == recommender.article_ids[article]
        assert answer['article_id'] not in dict(listed(answer)) or article >= recommender.retriever.n_items
    assert client.get(f'/similar_items/{recommender.article_ids[0]}').json == client.get(f'/similar_items/{recommender.article_ids[0]}?by=both').json
    refused = client.get(f'/similar_items/{recommender.article_ids[0]}?by=smell')
    assert refused.status_code == 422 and 'look, behaviour, both' in refused.text


def test_unknown_customer(client, recommender):
    "Gets what a visitor gets who did nothing, marked so."
    answer = client.get('/recommend/nobody')
    assert answer.status_code == 200 and answer.json['known'] is False and answer.json['customer_id'] == 'nobody'
    assert listed(answer.json) == listed(client.post('/recommend', json=dict(items=[])).json) != []
    assert client.get('/recommend/%F0%9F%91%97%00%ff').json['known'] is False


@pytest.mark.parametrize('k', [1, 5, 12, 'most'])
def test_k(client, recommender, customers, k):
    "As many as are wanted, or as there are: padding never leaves the service."
    most = recommender.retriever.settings.candidates; k = most if k == 'most' else k
    for answer in (client.get(f'/recommend/{customers[0]}?k={k}'), client.get(f'/recommend/nobody?k={k}'), client.post('/recommend', json=dict(items=[], k=k))):
        there = recommender.recommend(recommender.customers([answer.json.get('customer_id', '')]), k)[0][0]
        assert [r['article_id'] for r in answer.json['recommendations']] == [recommender.article_ids[i] for i in there if i >= 0]
    for article in (0, len(recommender.article_ids) - 1):
        answer = client.get(f'/similar_items/{recommender.article_ids[article]}?k={k}').json['recommendations']
        assert 0 < len(answer) <= k and all(r['article_id'] and np.isfinite(r['score']) for r in answer)


def test_an_answer_says_where_it_is_from(client, recommender, customers):
    text = client.get(f'/recommend/{customers[0]}').get_data(as_text=True)
    assert 'NaN' not in text and 'Infinity' not in text and '\\u' not in text
    answer = client.get(f'/recommend/{customers[0]}').json
    assert answer['bundle'] == recommender.version and answer['asof'] == to_date(recommender.asof)
    first = answer['recommendations'][0]; about = recommender.describe(recommender.item_index(first.pop('article_id')))
    assert first.pop('score') and first == {k: v for k, v in about.items() if k != 'article_id'}


def test_healthz(client, recommender):
    assert client.get('/healthz').json == dict(status='ok', bundle=recommender.version, asof=recommender.manifest['asof'],
                                               customers=len(recommender.customer_ids), items=len(recommender.article_ids),
                                               search=recommender.can_search, search_images=recommender.can_search_images, complements=recommender.can_complement,
                                               previous=None, refused=None)
    assert client.get('/healthz/live').json == client.get('/healthz/ready').json == dict(status='ok')


def test_predict(client, recommender, customers, visitors):
    "Scores of given articles, in their order, for a customer and for a visitor."
    ids = [recommender.article_ids[i] for i in (5, 3, 8, 3, len(recommender.article_ids) - 1)]; items = np.array([[recommender.item_index(a) for a in ids]])
    for who, history in ((dict(customer_id=customers[1]), recommender.customers(customers[1:2])), (visitors[3] if 'age' in visitors[3] else dict(visitors[3], age=30), None), (dict(customer_id='nobody'), recommender.customers(['nobody']))):
        history = history or recommender.visitors([who['items']], [who['age']]); answer = client.post('/predict', json=dict(who, candidates=ids)).json
        expected = recommender.predict(history, items)[0]
        assert [s['article_id'] for s in answer['scores']] == ids and [s['score'] for s in answer['scores']] == [float(e) if np.isfinite(e) else None for e in expected] and answer['known'] == bool((history.item >= 0).any())
    most = recommender.settings.candidates
    for body, field in ((dict(candidates=[]), 'candidates'), (dict(candidates=ids[:1] * (most + 1)), 'candidates'), (dict(candidates=['x']), 'candidates[0]'), (dict(candidates=[3]), 'candidates[0]'), (dict(), 'candidates'),
                        (dict(candidates=ids, items=[dict(article_id='x')]), 'items[0].article_id'), (dict(candidates=ids, customer_id=''), 'customer_id')):
        answer = client.post('/predict', json=body); assert answer.status_code == 422 and field in [e['field'] for e in json.loads(answer.text)['errors']], answer.text
