"""The service that answers from a bundle: `create_app` in `app`, run by `python -m serving`."""
