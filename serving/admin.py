"""For whoever runs the service: which bundles there are, and answering from another one. Closed unless LOOKBOOK_ADMIN_KEY is set."""
from flask import Blueprint, current_app
from pydantic import BaseModel, Field, model_validator

from recsys_lib.core import InputError

from .access import as_admin
from .contract import route
from .health import RefusedBundle
from .problems import Asked, Refused, error

bp = Blueprint('admin', __name__, url_prefix='/admin')
bp.before_request(as_admin)


class Wanted(Asked):
    "One of the two."
    version: str | None = Field(None, min_length=1, max_length=100, description='the name of a bundle beside the one that answers')
    rollback: bool = Field(False, description='true, for the bundle that answered before, or false')

    @model_validator(mode='after')
    def one(self):
        if (self.version is None) == (not self.rollback): raise ValueError('expected a version, or rollback: true')
        return self


class State(BaseModel):
    bundle: str
    previous: str | None
    refused: RefusedBundle | None
    versions: list[str]


def state():
    bundles = current_app.extensions['bundles']
    return dict(bundle=bundles.recommender.version, previous=bundles.previous and bundles.previous.version, refused=bundles.refused, versions=bundles.versions())


@route(bp, 'GET', '/bundle', answer=State)
def which():
    "What this worker answers from, what it answered from before, what was refused, and what there is."
    return state()


@route(bp, 'POST', '/bundle', body=Wanted, answer=State, refuses=(409,))
def switch(wanted):
    "Answer from another bundle. It is verified and rehearsed first; one that is refused changes nothing. The other workers follow within LOOKBOOK_WATCH_SECONDS."
    bundles = current_app.extensions['bundles']
    if wanted.rollback and not bundles.served('before'): raise Refused(409, detail='this service has answered from no other bundle, so there is none to go back to; name a version')
    version = bundles.served('before').name if wanted.rollback else wanted.version
    if not bundles.address.is_symlink(): raise Refused(409, detail='LOOKBOOK_BUNDLE is a folder, not a link to one, so it cannot be moved to another bundle')
    if version not in bundles.versions(): raise Refused(422, error('body', 'version', f"one of {', '.join(bundles.versions())}"))
    try: bundles.point(version)
    except InputError as e: raise Refused(422, detail=str(e)) from None
    return state()
