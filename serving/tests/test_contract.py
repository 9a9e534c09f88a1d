"""The document says what the service does: asked by schemathesis with what the document allows, and with what it does not."""
import pytest, schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, negative_data_rejection, response_headers_conformance, response_schema_conformance, status_code_conformance

from serving.app import create_app

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance, response_headers_conformance]


@pytest.fixture(scope='session')
def open_app(bundle): return create_app(dict(BUNDLE=str(bundle), DEMO=True, CACHE_MB=0, ADMIN_KEY='an admin key for tests'))


def document_of(app): return app.test_client().get('/openapi.json').json


def test_every_route_is_in_the_document(open_app):
    document = document_of(open_app); told = {(p, m) for p, methods in document['paths'].items() for m in methods}
    assert document['openapi'].startswith('3.')
    for rule in open_app.url_map.iter_rules():
        if rule.endpoint.split('.')[0] in ('static', 'contract', 'swagger_ui', 'shop'): continue
        for method in rule.methods - {'HEAD', 'OPTIONS'}: assert (rule.rule.replace('id:', '').replace('<', '{').replace('>', '}'), method.lower()) in told, rule
    for methods in document['paths'].values():
        for about in methods.values(): assert about['summary'] and all(p.get('description') or p['in'] == 'path' or p['schema'] for p in about.get('parameters', []))


def test_the_document_can_be_browsed(open_app):
    page = open_app.test_client().get('/docs/').text
    assert '/openapi.json' in page and 'http://' not in page.replace('http://localhost', '') and open_app.test_client().get('/docs/swagger-ui.css').status_code == 200


def load(app): return schemathesis.openapi.from_wsgi('/openapi.json', app)


GROUPS = 'recommend', 'predict', 'similar_items', 'frequently', 'complete', 'search', 'items', 'events', 'profile', 'admin'


def with_ids(given, ids, at=0):
    "The same, with articles of the catalogue where an article is meant: strings that are made up are none."
    if isinstance(given, list): return [ids[(len(v) + at + n) % len(ids)] if isinstance(v, str) else with_ids(v, ids, at + n) for n, v in enumerate(given)]
    if isinstance(given, dict): return {k: ids[(len(str(v)) + at) % len(ids)] if k == 'article_id' else with_ids(v, ids, at) if k in ('events', 'items', 'candidates') else v for k, v in given.items()}
    return given


@pytest.mark.parametrize('mode', [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE])
@pytest.mark.parametrize('group', [*GROUPS, 'rest'])
def test_schemathesis(open_app, recommender, group, mode):
    "No 5xx, no answer that is not documented, nothing accepted that the document forbids; what it allows is asked about articles that there are."
    positive = mode == schemathesis.GenerationMode.POSITIVE; ids = [recommender.article_ids[i] for i in range(50)]; codes = set()
    for result in load(open_app).get_all_operations():
        operation = result.ok()
        if next((g for g in GROUPS if g in operation.path), 'rest') != group: continue
        if not positive and (operation.path == '/search/image' or not (operation.body or operation.query or operation.path_parameters)): continue

        @settings(max_examples=25, deadline=None, derandomize=True, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case):
            if positive: case.path_parameters, case.body = with_ids(case.path_parameters, ids), with_ids(case.body, ids)
            case.headers = {**(case.headers or {}), 'X-Admin-Key': 'an admin key for tests'}
            response = case.call(); codes.add(response.status_code)
            case.validate_response(response, checks=CHECKS if positive else [*CHECKS, negative_data_rejection])
        ask()
    assert codes & ({200, 202} if positive else {422}) or group == 'rest' and not positive
