"""Who is looking: a small state in a cookie, checked whenever it is read, because anybody can write into it what they like."""
import base64, secrets
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

COOKIE = 'lookbook'
DAYS = 180  # that it is kept
LONGEST = 3800  # characters; browsers keep 4096 bytes of a cookie with its name and settings
CART = 20  # articles

Id = Annotated[str, Field(min_length=1, max_length=256)]
Name = Annotated[str, Field(min_length=1, max_length=256)]


class Visitor(BaseModel):
    "An anonymous visitor, or in demo mode a customer whose eyes they look through; their cart and preferences."
    model_config = ConfigDict(extra='forbid', strict=True, allow_inf_nan=False)
    visitor: str = Field(default_factory=lambda: 'visitor-' + secrets.token_urlsafe(16), pattern=r'^visitor-[A-Za-z0-9_-]{22}$')  # cannot be guessed
    customer: Id | None = None
    cart: list[Id] = Field([], max_length=CART)
    index_group: list[Name] = Field([], max_length=50)
    section: list[Name] = Field([], max_length=50)
    price_min: float | None = Field(None, ge=0, le=1e9)
    price_max: float | None = Field(None, ge=0, le=1e9)
    exclude_bought: bool = False

    def filtered(self) -> dict:
        "The preferences that are there, as the API takes them in a body."
        return {name: value for name in ('index_group', 'section', 'price_min', 'price_max') if (value := getattr(self, name)) not in (None, [])}

    def filters(self) -> list:  # (name, value) pairs
        "As it takes them after the question mark."
        return [(name, v) for name, value in self.filtered().items() for v in (value if isinstance(value, list) else [value])]

    def text(self) -> str:
        "As the cookie holds it."
        return base64.urlsafe_b64encode(self.model_dump_json(exclude_defaults=True, exclude_unset=False).encode()).decode().rstrip('=')

    def fits(self) -> bool: return len(self.text()) <= LONGEST


def read(cookie: str) -> Visitor:
    "The visitor in a cookie; a new one if there is none, or it makes no sense."
    if not cookie or len(cookie) > LONGEST: return Visitor()
    try: return Visitor.model_validate_json(base64.b64decode(cookie + '=' * (-len(cookie) % 4), altchars=b'-_', validate=True))
    except (ValidationError, ValueError): return Visitor()


def changed(visitor: Visitor, **fields) -> Visitor | None:
    "A visitor with other fields; None if they are no visitor's, or do not fit into a cookie."
    try: new = Visitor.model_validate(visitor.model_dump() | fields)
    except ValidationError: return None
    return new if new.fits() else None


def keep(response, visitor: Visitor, secure: bool):
    "Let a response carry the cookie."
    response.set_cookie(COOKIE, visitor.text(), max_age=DAYS * 24 * 60 * 60, path='/', secure=secure, httponly=True, samesite='Lax')
