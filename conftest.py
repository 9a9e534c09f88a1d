"What the tests in `tests/` and in `serving/tests/` share: a browser, and what the notebooks have drawn and fitted for their own tests."
import atexit, os, shutil, tempfile
from pathlib import Path

import pytest

# What a scratch run opens again where it is there; the rest are places where one notebook's tests wrote.
OPENED_AGAIN = 'twin', 'data', 'split.json', 'clip', 'als', 'snapshots', 'features', 'ranking', 'complements', 'search'


def copy_of_scratch(shared):
    "A scratch folder that may be changed: what is opened again of another. It ends with this process."
    folder = Path(tempfile.mkdtemp(prefix='lookbook-')); atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for part in OPENED_AGAIN:
        if (Path(shared) / part).is_dir(): shutil.copytree(Path(shared) / part, folder / part, symlinks=True)
        elif (Path(shared) / part).exists(): shutil.copy(Path(shared) / part, folder / part)
    return str(folder)


def pytest_configure():
    "Each process of the tests has its own: `make test` names the one that the pipeline before the tests has filled, and drawing and fitting it again takes a minute."
    if shared := os.environ.get('LOOKBOOK_SCRATCH'): os.environ['LOOKBOOK_SCRATCH'] = copy_of_scratch(shared)


@pytest.fixture(scope='session')
def new_scratch(tmp_path_factory):
    "Makes scratch folders for processes that a test starts: what runs in them writes there, so no two may share one by accident."
    shared = os.environ.get('LOOKBOOK_SCRATCH')
    return lambda: copy_of_scratch(shared) if shared else str(tmp_path_factory.mktemp('scratch'))


@pytest.fixture(scope='module')
def chromium():
    found = shutil.which('chromium')
    if not found: pytest.fail('there is no chromium on this machine: apt-get update && apt-get install --yes chromium')
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=['--no-sandbox', '--disable-dev-shm-usage'])
        yield browser
        browser.close()
