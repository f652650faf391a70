"""One Chromium for the folder, a page of its own for each test, and a service over real photographs.

A test fails on whatever the page says in its console, on an error in its scripts, and on any request to elsewhere.
"""

import shutil
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect, sync_playwright

from clip_pipeline_tests.browser.chromium import ARGUMENTS, BROWSERS, find_chromium
from clip_pipeline_tests.browser.photo_world import index_photos
from clip_pipeline_tests.serving.conftest import client, dagster, world
from clip_pipeline_tests.serving.world import StandInDagster, World, serving

__all__ = ["browser", "client", "dagster", "open_page", "page", "photo_service", "world"]

PATIENCE_MS = 15_000
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}


# Not for the session: while Playwright is there, its event loop counts as running in this thread, and tests of other
# folders start loops of their own.
@pytest.fixture(scope="package")
def browser():
    """A Chromium of this machine; the test is skipped where there is none."""
    executable = find_chromium()
    if executable is None:
        pytest.skip(f"needs a Chromium: none of {', '.join(BROWSERS)} is on PATH")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=executable, args=list(ARGUMENTS))
        yield launched
        launched.close()


class PageOpener:
    """Opens pages, each in a context of its own, and notes their faults.

    expected: parts of messages that a test provokes and Chromium reports on the console, such as "status of 422".
    """

    def __init__(self, browser):
        self.faults, self.expected = [], []
        self._browser, self._contexts = browser, []

    def __call__(self, base_url, **options):
        """A page on the service at `base_url`. options: of a browser context."""
        context = self._browser.new_context(base_url=str(base_url), **{"viewport": DESKTOP} | options)
        context.set_default_timeout(PATIENCE_MS)
        self._contexts.append(context)
        host = urlsplit(str(base_url)).netloc
        context.on("request", lambda request: self._check_host(request.url, host))
        context.on("console", self._check_message)
        context.on("weberror", lambda error: self.faults.append(f"script error: {error.error}"))
        return context.new_page()

    def close(self):
        for context in self._contexts:
            context.close()

    def _check_host(self, url, host):
        address = urlsplit(url)
        if address.scheme in ("http", "https", "ws", "wss") and address.netloc != host:
            self.faults.append(f"a request to elsewhere: {url}")

    def _check_message(self, message):
        if message.type in ("error", "warning") and not any(part in message.text for part in self.expected):
            self.faults.append(f"console {message.type}: {message.text} ({message.location.get('url')})")


@pytest.fixture
def open_page(browser):
    """Opens pages: `open_page(base_url, **options of a browser context)`. Their faults fail the test at its end."""
    opener = PageOpener(browser)
    yield opener
    opener.close()
    assert opener.faults == []


@pytest.fixture(scope="package")
def photo_service(photo_folder, tmp_path_factory):
    """A client of a service over the photographs, and one copy among them; for tests that only look."""
    dagster = StandInDagster()
    world = World(tmp_path_factory.mktemp("browser") / "home", dagster_port=dagster.port, roots=str(photo_folder))
    copy = tmp_path_factory.mktemp("copies") / "the same cat again.jpg"
    shutil.copy(photo_folder / "cat.jpg", copy)
    index_photos(world, [*sorted(photo_folder.iterdir()), copy])
    with serving(world) as client:
        yield client
    world.close()
    dagster.close()


@pytest.fixture
def page(open_page, photo_service):
    """A page of desktop size on `photo_service`."""
    return open_page(photo_service.base_url)
