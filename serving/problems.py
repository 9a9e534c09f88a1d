"""What is wrong with a request, said in one form: RFC 9457 problem details, `application/problem+json`."""
from typing import get_args

from flask import json, request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound, RequestEntityTooLarge

from recsys_lib.core import InputError

from .bundles import recommender

SHOWN = 20  # errors listed at most
TYPE = 'application/problem+json'


class Asked(BaseModel):
    "What is not declared is refused, and nothing is converted silently."
    model_config = ConfigDict(extra='forbid', strict=True, allow_inf_nan=False)


class Nothing(Asked): "No parameters."


class Wrong(BaseModel):
    "What was expected where."
    place: str = Field(alias='in', description='path, query, header or body')
    field: str
    expected: str


class Problem(BaseModel):
    "Problem details, RFC 9457."
    type: str
    title: str
    status: int
    detail: str | None = None
    errors: list[Wrong] = []


class Refused(HTTPException):
    "A request that cannot be answered, and what was expected instead."
    def __init__(self,
        code: int,  # HTTP status, 4xx
        *errors: dict,  # as `error` makes them
        detail: str = None,  # a sentence; the first error, if not given
        again: int = None,  # seconds after which the same may be asked again
    ):
        super().__init__(detail or '{field}: expected {expected}'.format(**errors[0]))
        self.code, self.errors, self.again = code, errors[:SHOWN], again


def error(place, field, expected):
    "An entry of a problem's `errors`: path, query, header or body; the field's name in it; what was expected there."
    return {'in': place, 'field': field[:200], 'expected': expected}


def validate(
    model: type[BaseModel],  # what is expected
    values,  # a dict of strings from the path or the query, or the bytes of a body
    place: str,  # path, query or body
) -> BaseModel:
    "An instance of the model. Raises `Refused` with all that is wrong."
    read = model.model_validate_json if place == 'body' else model.model_validate_strings
    try: return read(values, context=recommender())
    except ValidationError as e:
        found = e.errors(include_url=False, include_input=False)
    if found[0]['type'] == 'json_invalid':
        raise Refused(400, error(place, 'body', 'valid JSON; ' + found[0]['ctx']['error']))
    raise Refused(422, *(error(place, name(f['loc']) or place, expected(f, model)) for f in found))


def name(location):
    "A field's place as one reads it: ('items', 3, 'price') is items[3].price."
    return ''.join(f'[{part}]' if isinstance(part, int) else f'.{part}' for part in location).lstrip('.')


def expected(found, model):
    "What was expected, from an error of pydantic's: what the model says of the field, or else pydantic."
    *above, last = found['loc'] or [None]
    for part in above:  # down to the model that the field is of
        if not isinstance(part, str): continue
        field = model.model_fields[part]; inner = [m for m in (field.annotation, *get_args(field.annotation)) if isinstance(m, type) and issubclass(m, BaseModel)]
        if not inner: return field.description or found['msg']
        model, = inner
    fields = model.model_fields
    if found['type'] == 'extra_forbidden': return f"one of {', '.join(fields)}" if fields else 'no parameters'
    return last in fields and fields[last].description or found['msg'].removeprefix('Input should be ').removeprefix('Value error, expected ')


def query(several=()):
    "The parameters after the question mark, a text each; lines for one that may be given several times. Raises `Refused` if another one is."
    for parameter, values in request.args.lists():
        if len(values) > 1 and parameter not in several: raise Refused(422, error('query', parameter, f'one value, got {len(values)}'))
    return {parameter: '\n'.join(values) for parameter, values in request.args.lists()}


def body():
    "The bytes of a JSON body. Raises `Refused` if there is none, or it is something else."
    data = request.get_data(cache=False)
    if request.content_length is None and len(data) >= request.max_content_length: raise RequestEntityTooLarge  # werkzeug cuts it off there
    if not data.strip(): raise Refused(400, error('body', 'body', 'a JSON object, got nothing'))
    if not request.is_json: raise Refused(415, error('header', 'Content-Type', f"application/json, got {request.mimetype[:80] or 'none'}"))
    return data


def problem(e):
    "The answer to an `HTTPException`. What went wrong inside is in the log, not here."
    detail, errors = e.description, getattr(e, 'errors', ())
    if isinstance(e, MethodNotAllowed): detail = f"{request.method} {request.path}: expected {', '.join(sorted(e.valid_methods))}"
    elif isinstance(e, NotFound) and e is request.routing_exception: detail = f'{request.path}: there is nothing at this address'
    elif isinstance(e, RequestEntityTooLarge):
        errors = [error('body', 'body', f'at most {request.max_content_length:,} bytes')]; detail = 'body: expected ' + errors[0]['expected']
    response = e.get_response()
    response.content_type = TYPE
    if getattr(e, 'again', None): response.headers['Retry-After'] = str(e.again)
    response.data = json.dumps(dict(type='about:blank', title=e.name, status=e.code, detail=detail) | (dict(errors=errors) if errors else {}))
    return response


def init_app(app):
    "Make an application answer with problem details to all that goes wrong."
    app.register_error_handler(HTTPException, problem)
    app.register_error_handler(InputError, lambda e: problem(Refused(422, detail=str(e))))
