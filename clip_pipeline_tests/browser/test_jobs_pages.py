"""The pages about jobs, and the numbers, in a browser: what moves by itself, what keys and fingers do, what fits."""

import re
import time

import pytest
from playwright.sync_api import expect

from clip_pipeline.core.reasons import ReasonCode
from clip_pipeline.ledger.embedding_results import record_progress
from clip_pipeline_tests.browser.conftest import PHONE
from clip_pipeline_tests.ledger import steps
from clip_pipeline_tests.serving.world import World, serving

CONTENTS = {f"/photos/{n}.jpg": f"thing {n}" for n in range(10)}
LONG = "/photos/" + "a_folder_whose_name_does_not_end/" * 6 + "picture.jpg"


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"a")
    return folder


@pytest.fixture
def world(tmp_path, dagster, photos):
    """A home in which images below `photos` may be registered; takes the place of the one without roots."""
    opened = World(tmp_path / "home", dagster_port=dagster.port, roots=str(photos))
    yield opened
    opened.close()


# Asked for before `open_page` everywhere: a page has to be closed before the service that it follows.
@pytest.fixture
def client(world):
    with serving(world) as client:
        yield client


@pytest.fixture
def shown(client, open_page):
    """A page of desktop size on the service of this test."""
    return open_page(client.base_url)


def begin(world, dagster, contents=CONTENTS):
    """A job that is running, its images inspected; returns its id and its batch."""
    world.pin()
    job_id = world.register(*contents).job_id
    (batch,) = steps.plan(world.ledger)
    steps.inspect(world.ledger, batch, contents)
    dagster.add_run(job_id, "run-one-0001", "STARTED", work=f"embed:{batch}:run", start=time.time() - 10)
    return job_id, batch


def fail(world, path):
    """A complete job whose one image failed."""
    world.pin()
    job_id = world.register(path).job_id
    world.embed({path: "x"}, failing={path: ReasonCode.CORRUPT})
    world.publish()
    return job_id


def mark(page):
    """Leave a mark that does not outlive a reload."""
    page.evaluate("window.notReloaded = true")


def assert_marked(page):
    assert page.evaluate("window.notReloaded") is True


def heading_badge(page):
    return page.locator(".job-heading .badge")


def test_a_job_moves_to_its_end_before_the_eyes_of_whoever_watches(shown, world, dagster):
    job_id, batch = begin(world, dagster)
    shown.goto(f"/ui/jobs/{job_id}")
    bar = shown.get_by_role("progressbar")
    expect(bar).to_have_attribute("value", "0")
    mark(shown)
    for processed in (3, 7):
        record_progress(world.ledger, batch, processed=processed, run_id="run-one-0001")
        expect(bar).to_have_attribute("value", str(processed))
    expect(shown.locator(".job-pace")).to_contain_text("left at")
    failing = dict.fromkeys(["/photos/0.jpg"], ReasonCode.CORRUPT)
    steps.embed(world.ledger, batch, steps.inspect(world.ledger, batch, CONTENTS), failing=failing)
    expect(shown.locator(".job-reason")).to_have_text("corrupt")
    expect(shown.get_by_role("button", name="Cancel this job")).to_have_count(0)
    steps.merge(world.ledger)
    expect(heading_badge(shown)).to_have_text("completed")
    expect(shown.get_by_role("button", name="Try the 1 failed image again")).to_be_visible()
    expect(shown.get_by_text("Cancel this job")).to_have_count(0)
    assert_marked(shown)


def test_an_open_question_stays_open_while_the_page_moves(shown, world, dagster):
    job_id, batch = begin(world, dagster)
    shown.goto(f"/ui/jobs/{job_id}")
    shown.get_by_text("Cancel this job").click()
    button = shown.get_by_role("button", name="Yes, cancel it")
    button.focus()
    record_progress(world.ledger, batch, processed=5, run_id="run-one-0001")
    expect(shown.get_by_role("progressbar")).to_have_attribute("value", "5")
    expect(button).to_be_visible()
    expect(button).to_be_focused()


def test_a_job_that_another_client_submits_appears_in_the_list(shown, world, dagster):
    shown.goto("/ui/jobs")
    expect(shown.get_by_text("Nothing is under way.")).to_be_visible()
    mark(shown)
    job_id, batch = begin(world, dagster)
    card = shown.locator(".job-card")
    expect(card.get_by_role("link", name=job_id)).to_be_visible()
    record_progress(world.ledger, batch, processed=4, run_id="run-one-0001")
    expect(card.get_by_role("progressbar")).to_have_attribute("value", "4")
    assert_marked(shown)


def test_a_job_is_canceled_with_the_keyboard_alone(shown, world, dagster):
    job_id, _ = begin(world, dagster)
    shown.goto(f"/ui/jobs/{job_id}")
    shown.locator(".job-cancel summary").focus()
    shown.keyboard.press("Enter")
    shown.keyboard.press("Tab")
    expect(shown.get_by_role("button", name="Yes, cancel it")).to_be_focused()
    shown.keyboard.press("Enter")
    expect(heading_badge(shown)).to_have_text("canceled")


def test_the_failed_images_are_tried_again_with_one_click(shown, world, photos):
    job_id = fail(world, str(photos / "a.jpg"))
    shown.goto(f"/ui/jobs/{job_id}")
    shown.get_by_role("button", name="Try the 1 failed image again").click()
    expect(heading_badge(shown)).to_have_text("queued")
    expect(shown.locator(".job-title")).not_to_have_text(job_id)


def test_a_refused_path_is_named_and_once_it_is_gone_the_job_is_there(shown, open_page, photos):
    open_page.expected.append("status of 422")
    shown.goto("/ui/jobs")
    shown.get_by_label("Images").fill(f"{photos}/a.jpg\n/etc/passwd")
    shown.get_by_role("button", name="Add to the index").click()
    alert = shown.get_by_role("alert")
    expect(alert).to_contain_text("1 path was refused")
    expect(alert.get_by_role("cell").first).to_have_text("/etc/passwd")
    expect(shown.get_by_label("Images")).to_have_value(f"{photos}/a.jpg\n/etc/passwd")
    shown.get_by_label("Images").fill(f"{photos}/a.jpg")
    shown.get_by_role("button", name="Add to the index").click()
    expect(heading_badge(shown)).to_have_text("queued")


@pytest.mark.parametrize("path", ["/ui/jobs", "/ui/jobs/{running}", "/ui/jobs/{failed}", "/ui/stats",
                                  "/ui/failures/corrupt"])  # fmt: skip
def test_nothing_is_wider_than_a_phone(client, open_page, world, dagster, path):
    failed, (running, _) = fail(world, LONG), begin(world, dagster)
    page = open_page(client.base_url, viewport=PHONE)
    page.goto(path.format(running=running, failed=failed))
    for details in page.locator("details").all():
        details.evaluate("element => { element.open = true }")
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


def test_without_scripts_the_page_of_a_job_reads_itself_again(client, open_page, world, dagster):
    job_id, batch = begin(world, dagster)
    page = open_page(client.base_url, java_script_enabled=False)
    page.goto(f"/ui/jobs/{job_id}")
    record_progress(world.ledger, batch, processed=6, run_id="run-one-0001")
    expect(page.locator("progress")).to_have_attribute("value", "6")
    page.get_by_text("Cancel this job").click()
    page.get_by_text("Yes, cancel it").click()
    expect(heading_badge(page)).to_have_text("canceled")


def test_a_chart_says_what_it_shows_and_opens_as_a_table_by_key(shown, world):
    world.index(CONTENTS)
    shown.goto("/ui/stats")
    expect(shown.get_by_role("img", name="Formats")).to_be_visible()
    summary = shown.locator("figure", has_text="Formats").locator("summary")
    summary.focus()
    shown.keyboard.press("Enter")
    expect(shown.get_by_role("row", name="PNG 10")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_what_is_behind_them(client, open_page, world, scheme):
    """WCAG AA asks for 4.5 to 1: notes, axis labels and the state of parts are the faintest."""
    world.index(CONTENTS)
    page = open_page(client.base_url, color_scheme=scheme)
    page.goto("/ui/stats")
    for selector, colour in ((".tile-note", "color"), (".chart-tick", "fill"), (".health-word", "color")):
        element = page.locator(selector).first
        front = element.evaluate(f"element => getComputedStyle(element).{colour}")
        behind = element.evaluate("element => getComputedStyle(element.closest('.card')).backgroundColor")
        assert contrast(channels(front), channels(behind)) >= 4.5, (selector, front, behind)


def channels(colour):
    return [float(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]


def contrast(one, other):
    brighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (brighter + 0.05) / (darker + 0.05)


def luminance(colour):
    linear = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


# Waits of the page are noted, and over at once.
NOTE_WAITS = """
const wait = window.setTimeout;
const waits = [];
window.setTimeout = (work, ms, ...rest) => {
  if (ms < 2000) return wait(work, ms, ...rest);
  waits.push(ms);
  document.documentElement.dataset.waits = waits.slice(0, 7).join();
  return wait(work, 0, ...rest);
};
"""


def test_a_connection_that_keeps_closing_is_tried_again_ever_more_seldom(shown, world, dagster):
    """A refused handshake was repeated every two seconds for ever."""
    job_id, _ = begin(world, dagster)
    shown.add_init_script(NOTE_WAITS)
    shown.route_web_socket(re.compile("/ws/jobs/"), lambda socket: socket.close(code=1013))
    shown.goto(f"/ui/jobs/{job_id}")
    expect(shown.locator("html")).to_have_attribute("data-waits", "2000,4000,8000,16000,32000,60000,60000")


def test_a_connection_that_its_key_ended_is_not_opened_again(shown, world, dagster):
    job_id, _ = begin(world, dagster)
    shown.add_init_script(NOTE_WAITS)
    shown.route_web_socket(re.compile("/ws/jobs/"), lambda socket: socket.close(code=1008))
    # It is read once as it is opened, and again after the close.
    with shown.expect_request(lambda request: request.resource_type == "fetch"):
        shown.goto(f"/ui/jobs/{job_id}")
    assert shown.evaluate("document.documentElement.dataset.waits") is None
