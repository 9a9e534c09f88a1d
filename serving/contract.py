"""Routes that say what they take and what they answer: checked by pydantic, told as OpenAPI 3.1, kept if they may be."""
import inspect, re
from functools import wraps

from flask import Blueprint, Response, current_app, g, jsonify, request
from flask_swagger_ui import get_swaggerui_blueprint
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from werkzeug.routing import BaseConverter

from .bundles import recommender
from .problems import TYPE as PROBLEM, Nothing, Problem, body, query, validate

SCHEMAS = '#/components/schemas/{model}'
bp = Blueprint('contract', __name__)


class Id(BaseConverter):
    "In an address, an id of the shop's: it may hold slashes and line breaks."
    part_isolating, regex = False, '(?s:.+?)'


def route(
    blueprint: Blueprint,
    method: str,  # GET or POST
    address: str,  # as Flask writes it; its variables are the fields of `path`
    answer: 'type[BaseModel] | None',  # None for what is no JSON
    path: type[BaseModel] = None,
    query: type[BaseModel] = Nothing,  # parameters after the question mark
    body: type[BaseModel] = None,  # of JSON
    several: tuple = (),  # parameters that may be given several times
    status: int = 200,
    refuses: tuple = (),  # statuses of problems, besides those that every route has
    kept: bool = False,  # whether an answer may be given again, until the bundle or what the visitor did has changed
    form: dict = None,  # schema of a multipart form
    media: str = 'application/json',  # of the answer
):
    "A view of validated models, as many as are declared, in the order path, query, body. It returns what `answer` is made of."
    def declare(view):
        @wraps(view)
        def answered(**variables):
            given = []
            if path: given.append(validate(path, variables, 'path'))
            key = kept and key_of(view.__name__, variables)
            if key and (held := current_app.extensions['kept'].get(key)) is not None: return as_json(held, status)
            if query: asked = validate(query, query_of(several), 'query'); given += [asked] if query is not Nothing else []
            if body: given.append(validate(body, body_of(), 'body'))
            said = view(*given)
            if answer is None or isinstance(said, Response): return said
            with current_app.extensions['watch'].step('answer'): text = answer.model_validate(said).model_dump_json(exclude_unset=True).encode()
            if key and not g.get('unsure'): current_app.extensions['kept'].put(key, text)
            return as_json(text, status)
        answered.contract = dict(answer=answer, path=path, query=query, body=body, several=several, status=status, refuses=refuses, form=form, media=media)
        blueprint.add_url_rule(address, view.__name__, answered, methods=[method])
        return answered
    return declare


query_of, body_of = query, body  # `route` has parameters of these names


def as_json(text, status): return Response(text, status, content_type='application/json')


def key_of(name, variables):
    "What an answer depends on: the bundle, the address, whether a key was brought, what the visitor did since, what is in stock."
    stamp = current_app.extensions['events'].stamp(variables['customer_id']) if 'customer_id' in variables else 0
    if stamp is None: return None  # nobody knows what the visitor did
    return recommender().version, name, request.environ['PATH_INFO'], request.environ['QUERY_STRING'], g.get('who') is None, stamp, current_app.extensions['stock'].state()


# -- the document

def parameters(where, model, schemas, several=()):
    "OpenAPI's parameters, from a model's fields."
    schema = schemas[model.__name__]
    for name, about in schema.get('properties', {}).items():
        about = dict(about); said = about.pop('description', None); about.pop('title', None)
        if name in several: about = about if about.get('type') == 'array' else {'type': 'array', 'items': {'type': 'string'}}
        yield {'name': name, 'in': where, 'required': where == 'path' or name in schema.get('required', ()), 'schema': about} | ({'description': said} if said else {})


def operation(view, rule, schemas):
    "OpenAPI's operation, from what a view declares."
    c, ref = view.contract, lambda model: {'$ref': SCHEMAS.format(model=model.__name__)}
    out = dict(operationId=view.__name__, summary=(inspect.getdoc(view) or '').split('. ')[0].rstrip('.'), description=inspect.getdoc(view) or '', tags=[rule.endpoint.split('.')[0]])
    given = [p for where in ('path', 'query') if c[where] for p in parameters(where, c[where], schemas, c['several'])]
    if given: out['parameters'] = given
    if c['body']: out['requestBody'] = dict(required=True, content={'application/json': dict(schema=ref(c['body']))})
    if c['form']: out['requestBody'] = dict(required=True, content={'multipart/form-data': dict(schema=c['form'])})
    good = dict(description='the answer'); content = dict(schema=ref(c['answer'])) if c['answer'] else dict(schema=dict(type='string', format='binary')) if c['media'].startswith('image/') else dict(schema=dict(type='string'))
    good['content'] = {c['media']: content}
    codes = {400, 401, 403, 422, 429, *c['refuses']} | ({413, 415} if c['body'] or c['form'] else set())
    refusal = lambda code: dict(description='a problem: what was expected', content={PROBLEM: dict(schema=ref(Problem))})
    out['responses'] = {str(c['status']): good} | {str(code): refusal(code) for code in sorted(codes)}
    return out


def document(app) -> dict:
    "The OpenAPI document of an application."
    views = [(rule, app.view_functions[rule.endpoint]) for rule in app.url_map.iter_rules()]; views = [(r, v) for r, v in views if hasattr(v, 'contract')]
    models = {Problem: 'serialization'}
    for _, view in views:
        for part, mode in (('answer', 'serialization'), ('path', 'validation'), ('query', 'validation'), ('body', 'validation')):
            if view.contract[part]: models.setdefault(view.contract[part], mode)
    _, defined = models_json_schema(list(models.items()), ref_template=SCHEMAS)
    schemas, paths = defined['$defs'], {}
    for rule, view in sorted(views, key=lambda rv: rv[0].rule):
        paths.setdefault(re.sub('<(?:[a-z]+:)?([a-z_]+)>', r'{\1}', rule.rule), {})[(rule.methods - {'HEAD', 'OPTIONS'}).pop().lower()] = operation(view, rule, schemas)
    keys = dict(key=dict(type='apiKey', **{'in': 'header'}, name='X-API-Key'), token=dict(type='http', scheme='bearer'))
    return dict(openapi='3.1.0', info=dict(title='Lookbook', version='1', description='Recommendations for a fashion shop, answered from one bundle.'),
                servers=[dict(url='/')], paths=paths, components=dict(schemas=schemas, securitySchemes=keys), security=[{}, dict(key=[]), dict(token=[])])


@bp.get('/openapi.json')
def openapi():
    "The document, made when it is first asked for."
    held = current_app.extensions.setdefault('document', {})
    if not held: held.update(document(current_app))
    return jsonify(held)


def init_app(app):
    app.register_blueprint(bp)
    app.register_blueprint(get_swaggerui_blueprint('/docs', '/openapi.json', config=dict(app_name='Lookbook', oauth2RedirectUrl='')), url_prefix='/docs')
