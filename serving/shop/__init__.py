"""The shop window: pages over the public API, for people. `bp` and `init_app` are what the application needs."""
from .pages import bp as bp, init_app as init_app
