"""The page about workers in a browser: it keeps itself up to date, with scripts and without, and fits a phone."""

import pytest
from playwright.sync_api import expect

from clip_pipeline.ledger.workers import WorkerReport, WorkerState, beat
from clip_pipeline_tests.browser.conftest import PHONE
from clip_pipeline_tests.serving.fleet import enter, enter_all, lose

# As often as the page reads itself again, and time for it.
PATIENCE_MS = 20_000


@pytest.fixture
def shown(client, open_page):
    page = open_page(client.base_url)
    page.goto("/ui/workers")
    return page


def test_a_worker_that_comes_and_goes_is_seen_without_a_reload(shown, world):
    expect(shown.get_by_text("No worker was ever seen")).to_be_visible()
    shown.evaluate("window.notReloaded = true")
    address, session = enter(world, "gpu01")
    expect(shown.get_by_role("row").filter(has_text=address)).to_contain_text("starting", timeout=PATIENCE_MS)
    beat(world.ledger, address, session=session, report=WorkerReport(WorkerState.BUSY, ("run-1",), 99.5))
    expect(shown.get_by_role("row").filter(has_text=address)).to_contain_text("99.5", timeout=PATIENCE_MS)
    lose(world, address)
    expect(shown.get_by_role("row").filter(has_text=address)).to_contain_text("lost", timeout=PATIENCE_MS)
    assert shown.evaluate("window.notReloaded") is True


def test_without_scripts_it_reloads_itself(client, world, open_page):
    page = open_page(client.base_url, java_script_enabled=False)
    page.goto("/ui/workers")
    address, _ = enter(world, "gpu01")
    expect(page.get_by_role("row").filter(has_text=address)).to_contain_text("starting", timeout=PATIENCE_MS)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_every_state_can_be_read(client, world, open_page, scheme):
    enter_all(world)
    page = open_page(client.base_url, viewport=PHONE, color_scheme=scheme)
    page.goto("/ui/workers")
    expect(page.locator(".workers .badge")).to_have_text(["lost", "starting", "draining", "busy", "ready", "left"])
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
