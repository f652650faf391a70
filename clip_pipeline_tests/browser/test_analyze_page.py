"""The pages about single images in a browser: dropped or pasted, answered before the eyes, deleted, on a phone."""

import pytest
from playwright.sync_api import expect

from clip_pipeline_tests.browser.conftest import PHONE
from clip_pipeline_tests.defs.uploads import COLOUR_LABELS, picture
from clip_pipeline_tests.serving.lane import answer_all, label_images, lane
from clip_pipeline_tests.serving.pages.test_labels_page import CONTENTS, use_colours

LABELS = ", ".join(COLOUR_LABELS)
# What a browser does with a file that is dropped or pasted: scripts cannot move one in from outside.
GIVE = """([kind, bytes]) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([new Uint8Array(bytes)], "from outside.png", { type: "image/png" }));
  const event = kind === "paste"
    ? new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true })
    : new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true });
  document.querySelector("main").dispatchEvent(event);
}"""


@pytest.fixture
def world(world):
    world.pin()
    return world


# Asked for after `client` everywhere: a page has to be closed before the service that it follows.
@pytest.fixture
def shown(client, open_page):
    return open_page(client.base_url)


def choose(page, *, name="rot.png", labels=LABELS, content=None):
    """Fill in the form and send it."""
    page.goto("/ui/analyze")
    file = {"name": name, "mimeType": "image/png", "buffer": content or picture("red", side=200)}
    page.locator("#file").set_input_files(file)
    page.get_by_label("Labels", exact=True).fill(labels)
    page.get_by_role("button", name="Analyze").click()


def best(page):
    return page.locator(".ranked li").first


def test_the_labels_of_an_image_appear_by_themselves(shown, world):
    choose(shown)
    expect(shown.get_by_role("heading", level=1)).to_have_text("rot.png")
    expect(shown.locator(".analysis-heading .badge")).to_have_text("submitted")
    shown.evaluate("window.notReloaded = true")
    answer_all(world)
    expect(best(shown)).to_contain_text("something red")
    expect(shown.locator(".analysis-heading .badge")).to_have_text("completed")
    assert shown.evaluate("window.notReloaded") is True
    picture_of_it = shown.locator(".analysis-picture")
    assert picture_of_it.evaluate("image => image.complete && image.naturalWidth") == 200


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_an_image_is_dropped_or_pasted_seen_and_sent_with_one_key(shown, world, kind):
    shown.goto("/ui/analyze")
    shown.get_by_label("Labels", exact=True).fill(LABELS)
    shown.evaluate(GIVE, [kind, list(picture("blue", side=120))])
    expect(shown.locator("[data-name]")).to_have_text("from outside.png")
    expect(shown.locator("[data-preview]")).to_be_visible()
    expect(shown.get_by_role("button", name="Analyze")).to_be_focused()
    with lane(world):
        shown.keyboard.press("Enter")
        expect(best(shown)).to_contain_text("something blue")


def test_a_damaged_image_ends_with_the_reason_before_the_eyes(shown, world):
    choose(shown, content=picture("green", side=300)[:120])
    answer_all(world)
    expect(shown.get_by_role("alert")).to_contain_text("This image could not be analyzed.")


def test_a_name_full_of_markup_is_a_name(shown, world):
    name = "<b onclick=alert(1)>&amp;.png"
    choose(shown, name=name, labels="<i>red</i>, something red")
    answer_all(world)
    expect(shown.locator(".ranked-label", has_text="<i>red</i>")).to_be_visible()
    expect(shown.get_by_role("heading", level=1)).to_have_text(name)


def test_the_history_grows_and_what_is_deleted_leaves_it(shown, world, open_page, client):
    open_page.expected.append("status of 404")  # the page that is being left may ask about its request once more
    other = open_page(client.base_url)
    other.goto("/ui/analyses")
    expect(other.get_by_text("Nothing was sent yet")).to_be_visible()
    choose(shown)
    expect(other.get_by_role("link", name="rot.png")).to_be_visible()
    answer_all(world)
    expect(other.get_by_role("row", name="rot.png")).to_contain_text("something red")
    shown.get_by_role("button", name="Delete image and result").click()
    expect(shown.get_by_text("Nothing was sent yet")).to_be_visible()


def test_without_scripts_the_page_reads_itself_again(client, open_page, world):
    page = open_page(client.base_url, java_script_enabled=False)
    choose(page)
    expect(page.get_by_text("waits for its turn")).to_be_visible()
    answer_all(world)
    expect(best(page)).to_contain_text("something red")
    page.get_by_role("button", name="Delete image and result").click()
    expect(page.get_by_text("Nothing was sent yet")).to_be_visible()


def test_a_label_of_the_chart_leads_to_its_images_with_the_keyboard(shown, world):
    world.index(CONTENTS)
    use_colours(world)
    label_images(world)
    shown.goto("/ui/labels")
    shown.locator(".chart-link").first.focus()
    shown.keyboard.press("Enter")
    expect(shown.get_by_label("Label", exact=True)).to_have_value("something red")
    expect(shown.locator("[data-hit]")).to_have_count(3)


@pytest.mark.parametrize("path", ["/ui/analyze", "/ui/analyses", "/ui/labels", "/ui/labels/colours", "one"])
def test_nothing_is_wider_than_a_phone(client, open_page, world, path):
    world.index(CONTENTS)
    use_colours(world)
    label_images(world)
    page = open_page(client.base_url, viewport=PHONE)
    choose(page, name="a_name_without_an_end" * 9 + ".png", labels="x" * 200 + ",y")
    answer_all(world)
    expect(best(page)).to_be_visible()
    if path != "one":
        page.goto(path)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
