"""Search: articles for a text, and articles that look like an image."""
import io, re, warnings
from typing import Annotated, Literal

from flask import Blueprint, Request, current_app, request
from PIL import Image
from pydantic import BaseModel, Field, ValidationError, WithJsonSchema, WrapValidator, field_validator
from pydantic_core import PydanticCustomError

from recsys_lib.bundle import Recommender
from recsys_lib.core import InputError
from recsys_lib.search import LONGEST_QUERY, MODES, MOST, UNLEARNED
from recsys_lib.towers import open_image

from .batching import in_thread
from .bundles import recommender
from .contract import route
from .problems import Asked, Refused, error
from .recommendations import Listed, listed

bp = Blueprint('search', __name__)
FORMATS = ('JPEG', 'PNG', 'WEBP', 'GIF', 'BMP', 'AVIF')  # Pillow knows sixty more, one of which starts Ghostscript
IMAGE = f"an image ({', '.join(FORMATS)})"


# -- what may be asked

def up_to_most(k, handler):
    "k is bounded by how far a search reads."
    k = int(k) if re.fullmatch('[0-9]{1,9}', k) else 0
    try: k = handler(k)
    except ValidationError: k = 0
    if not 1 <= k <= MOST: raise PydanticCustomError('range', 'an integer from 1 to {most}', dict(most=MOST))
    return k


class UpTo(Asked):
    k: Annotated[int, WrapValidator(up_to_most), WithJsonSchema(dict(type='integer', minimum=1, maximum=MOST, description='so many, best first'))] = 12


class Query(UpTo):
    q: str = Field(min_length=1, max_length=LONGEST_QUERY, description=f'what is searched for, a text of 1 to {LONGEST_QUERY:,} characters')
    mode: Literal[MODES] = Field('both', description=f"one of {', '.join(MODES)}")

    @field_validator('q')
    def not_blank(cls, q):
        if not q.strip(): raise ValueError
        return q


class UploadRequest(Request):
    "A request whose uploads stay in memory: their size is limited, and the container has no folder to put them."
    def _get_file_stream(self, *_, **__): return io.BytesIO()


# -- what is answered

class Found(BaseModel):
    bundle: str
    results: list[Listed]


class FoundForText(Found):
    q: str
    mode: str  # words, where both were asked for and the bundle knows no meaning


@route(bp, 'GET', '/search', query=Query, answer=FoundForText, refuses=(404,), kept=True)
def for_text(asked):
    "The best articles for a text: by its words, by its meaning, or by both."
    mode = 'words' if asked.mode == 'both' and not recommender().can_search_images else asked.mode
    ids, scores = able(learned=mode == 'meaning').search([asked.q], asked.k, mode)
    return dict(q=asked.q, mode=mode, **answer(recommender(), ids[0], scores[0]))


FORM = dict(type='object', required=['image'], properties=dict(image=dict(type='string', format='binary')), additionalProperties=False)

@route(bp, 'POST', '/search/image', query=UpTo, answer=Found, form=FORM, refuses=(404,))
def for_image(asked):
    "The articles that look like an image: the file `image` of a multipart form."
    asked_of, data, most = able(learned=True), uploaded(), current_app.config['MAX_PIXELS']
    ids, scores = in_thread(lambda: asked_of.search_image([decoded(data, most)], asked.k))  # a large image takes as long as a hundred answers
    return answer(asked_of, ids[0], scores[0])


def able(learned: bool) -> Recommender:
    "The recommender. Raises `Refused` if its bundle has no search; or if it has to have learned what texts and images mean, and has not."
    if not recommender().can_search: raise Refused(404, detail='this bundle has no search: its run has no towers and vectors')
    if learned and not recommender().can_search_images: raise Refused(404, detail=UNLEARNED)
    return recommender()


def answer(recommender, ids, scores): return dict(bundle=recommender.version, results=listed(recommender, ids, scores))


def uploaded() -> bytes:
    "The uploaded file. Raises `Refused` for what is no form, and for other fields."
    request.max_content_length = current_app.config['MAX_IMAGE_BYTES']
    if request.mimetype != 'multipart/form-data': raise Refused(415, error('header', 'Content-Type', f"multipart/form-data, got {request.mimetype[:80] or 'none'}"))
    fields = [*request.form.items(multi=True), *request.files.items(multi=True)]
    if [name for name, _ in fields] != ['image'] or 'image' not in request.files: raise Refused(422, error('body', 'image', f'a form with one field, image, that is {IMAGE}'))
    return request.files['image'].stream.getvalue()


def decoded(data: bytes, most: int) -> Image.Image:
    "An image of one of the formats, of at most so many pixels. The size is looked at before anything is decoded. Raises `Refused`."
    def refused(why): return Refused(422, error('body', 'image', why))
    with warnings.catch_warnings():
        warnings.simplefilter('error', Image.DecompressionBombWarning)
        try: image = Image.open(io.BytesIO(data), formats=FORMATS)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError): raise refused(f'at most {most:,} pixels') from None
        except Exception: raise refused(f"{IMAGE}, got {len(data):,} bytes that are none") from None  # Pillow's readers raise all sorts
    if image.width * image.height > most: raise refused(f'at most {most:,} pixels, got {image.width} x {image.height}')
    try: return open_image(image)
    except InputError as e: raise refused(f'{IMAGE}; {str(e).removeprefix("image: ")}') from None
