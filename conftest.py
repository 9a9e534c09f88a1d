"What the tests in `tests/` and in `serving/tests/` share: a browser."
import shutil

import pytest


@pytest.fixture(scope='module')
def chromium():
    found = shutil.which('chromium')
    if not found: pytest.fail('there is no chromium on this machine: apt-get update && apt-get install --yes chromium')
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=['--no-sandbox', '--disable-dev-shm-usage'])
        yield browser
        browser.close()
