"""The service says what `Recommender` says, to the bit."""
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
                                               search=recommender.can_search, complements=recommender.can_complement, previous=None, refused=None)
    assert client.get('/healthz/live').json == client.get('/healthz/ready').json == dict(status='ok')
