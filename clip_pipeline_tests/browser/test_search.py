"""The search page in a browser: typing, dropping, keys, a phone, the dark, and no scripts at all."""

import base64
import re
import threading

import pytest
from playwright.sync_api import expect

from clip_pipeline_tests.browser.conftest import PHONE
from clip_pipeline_tests.serving.world import serving

DROP = """([content, name, type]) => {
  const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type }));
  for (const kind of ["dragover", "drop"]) {
    document.body.dispatchEvent(new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true }));
  }
}"""
PASTE = """([content, name, type]) => {
  const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type }));
  const options = { clipboardData: transfer, bubbles: true, cancelable: true };
  document.body.dispatchEvent(new ClipboardEvent("paste", options));
}"""


def give(page, how, content, *, name="query.jpg", kind="image/jpeg"):
    """Drop or paste a file onto the page."""
    page.evaluate(how, [base64.b64encode(content).decode(), name, kind])


def names(page):
    """The file names of the results, in order."""
    return page.locator("[data-hit] .hit-name").all_text_contents()


def box(page):
    return page.get_by_role("searchbox", name="Describe what to look for")


def found(client, text, **parameters):
    """The file names that the API gives."""
    results = client.get("/api/v1/search", params={"q": text, "k": 30} | parameters).json()["results"]
    return [result["path"].rpartition("/")[2] for result in results]


def test_typing_shows_results_and_the_address_follows(page, photo_service):
    page.goto("/")
    expect(page).to_have_url(re.compile("/ui/search$"))
    box(page).press_sequentially("something red", delay=5)
    expect(page).to_have_url(re.compile(r"\?q=something\+red$"))
    assert names(page) == found(photo_service, "something red")
    expect(page.locator("[data-live]")).to_have_text("21 images")
    first = page.locator("[data-hit] img").first
    expect(first).to_have_js_property("complete", True)
    assert first.evaluate("image => image.naturalWidth") > 100
    page.reload()
    assert names(page) == found(photo_service, "something red")


def test_of_quick_typing_only_the_last_words_are_shown(page, photo_service):
    page.goto("/ui/search")
    asked = []
    page.on("request", lambda request: asked.append(request.url) if "/ui/search?" in request.url else None)
    box(page).press_sequentially("white", delay=5)
    expect(page).to_have_url(re.compile("q=white$"))
    assert len(asked) < len("white")
    assert names(page) == found(photo_service, "white")


def test_rows_fill_the_width_and_heights_in_a_row_are_equal(page):
    page.goto("/ui/search?q=red")
    boxes = [hit.bounding_box() for hit in page.locator(".hit-open").all()]
    rows = {}
    for one in boxes:
        rows.setdefault(round(one["y"]), []).append(one)
    assert len(rows) > 2
    grid = page.locator("[data-grid]").bounding_box()
    for row in list(rows.values())[:-1]:
        assert max(one["height"] for one in row) - min(one["height"] for one in row) < 1
        assert abs(row[-1]["x"] + row[-1]["width"] - grid["x"] - grid["width"]) < 2


@pytest.mark.parametrize("how", [DROP, PASTE], ids=["dropped", "pasted"])
def test_an_image_that_is_given_is_searched_with_and_shown_beside(page, photos, how):
    page.goto("/ui/search?q=red")
    give(page, how, photos["cat"].read_bytes(), name="mine.jpg")
    expect(page.locator(".chip")).to_contain_text("Images like mine.jpg", timeout=60_000)  # the decoder starts first
    expect(page.locator("[data-preview]")).to_be_visible()
    assert page.locator("[data-preview]").evaluate("image => image.naturalWidth") == 451
    assert names(page)[0] in ("cat.jpg", "the same cat again.jpg")
    expect(page.locator(".hit-number").first).to_have_text(re.compile(r"(1\.000|0\.99\d)$"))
    expect(box(page)).to_have_value("")
    box(page).fill("blue")
    expect(page).to_have_url(re.compile("q=blue$"))
    expect(page.locator(".chip")).to_have_count(0)


def test_what_is_no_image_is_refused_in_words(open_page, photo_service):
    page = open_page(photo_service.base_url)
    open_page.expected.append("status of 415")
    page.goto("/ui/search")
    give(page, DROP, b"not an image", name="notes.txt", kind="text/plain")
    expect(page.get_by_role("heading", name="That image cannot be used")).to_be_visible()
    expect(page.locator("[data-live]")).to_have_text("That image cannot be used")


def test_more_like_this_leads_from_a_result_to_its_like(page):
    page.goto("/ui/search?q=red")
    hit = page.locator("[data-hit]", has_text="motorcycle_left.jpg")
    hit.hover()
    hit.get_by_role("link", name="More like this").click()
    expect(page.locator(".chip")).to_contain_text("More like motorcycle_left.jpg")
    assert names(page)[0] == "motorcycle_right.webp"
    assert "motorcycle_left.jpg" not in names(page)


def test_everything_can_be_done_with_the_keyboard(page):
    page.goto("/ui/search")
    page.keyboard.press("/")
    expect(box(page)).to_be_focused()
    page.keyboard.type("red")
    expect(page).to_have_url(re.compile("q=red$"))
    hits = page.locator("[data-open]")
    page.keyboard.press("ArrowDown")
    expect(hits.nth(0)).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(hits.nth(1)).to_be_focused()
    page.keyboard.press("ArrowDown")
    below = page.evaluate("document.activeElement.getBoundingClientRect().top")
    assert below > hits.nth(1).bounding_box()["y"] + 50
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Home")
    expect(hits.nth(0)).to_be_focused()
    page.keyboard.press("Enter")
    viewer, second = page.get_by_role("dialog"), names(page)[1]
    expect(viewer.get_by_role("heading", level=1)).to_have_text(names(page)[0])
    page.keyboard.press("ArrowRight")
    expect(viewer.get_by_role("heading", level=1)).to_have_text(second)
    page.keyboard.press("Escape")
    expect(viewer).to_be_hidden()
    expect(hits.nth(1)).to_be_focused()
    page.keyboard.press("m")
    expect(page.locator(".chip")).to_contain_text(f"More like {second}")


def test_an_image_that_comes_late_does_not_take_the_place_of_a_later_one(page):
    """Of two keys pressed quickly the later image could be replaced by the one before."""
    page.goto("/ui/search?q=red")
    page.locator("[data-open]").nth(0).click()
    heading = page.get_by_role("dialog").get_by_role("heading", level=1)
    _, second, third = names(page)[:3]
    expect(heading).to_have_text(names(page)[0])
    late = []
    address = page.locator("[data-open]").nth(1).get_attribute("href")
    page.route(f"**{address}", lambda route: late.append(route))  # noqa: PLW0108 - refused for a built-in method
    with page.expect_request(f"**{address}"):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(heading).to_have_text(third)
    with page.expect_response(f"**{address}") as answer:
        late[0].continue_()
    answer.value.finished()
    page.evaluate("new Promise((done) => setTimeout(done))")  # what the answer leads to has happened
    expect(heading).to_have_text(third)
    assert second != third


def test_details_name_every_path_and_copy_it(open_page, photo_service, photos):
    page = open_page(photo_service.base_url, permissions=["clipboard-read", "clipboard-write"])
    page.goto("/ui/search?q=red")
    page.locator("[data-hit]", has_text="cat").locator("[data-open]").click()
    viewer = page.get_by_role("dialog")
    for path in ("the same cat again.jpg", str(photos["cat"]), "1 more file with this content", "b0000001", "JPEG"):
        expect(viewer).to_contain_text(path)
    shown = viewer.locator("[data-copied]").text_content()
    viewer.get_by_role("button", name="Copy the path").click()
    expect(viewer.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == shown
    viewer.get_by_role("button", name="Close").click()
    expect(viewer).to_be_hidden()


def test_filters_apply_as_they_are_chosen_and_can_be_cleared(page, photo_service):
    page.goto("/ui/search?q=red")
    page.get_by_text("Filters").click()
    page.get_by_label("Format").select_option("TIFF")
    expect(page).to_have_url(re.compile("format=TIFF"))
    assert names(page) == found(photo_service, "red", format="TIFF")
    page.get_by_label("Width at least").fill("100000")
    page.get_by_label("Width at least").press("Enter")
    expect(page.get_by_role("heading", name="No image fits")).to_be_visible()
    page.get_by_role("link", name="Clear all").click()
    expect(page).to_have_url(re.compile(r"/ui/search\?q=red$"))
    assert len(names(page)) == 21


def test_show_more_adds_to_what_is_there(world, client, open_page):
    world.index({f"/photos/{n}.jpg": f"thing {n}" for n in range(40)})
    other = open_page(client.base_url)
    open_page.expected.append("status of 404")  # these files hold no pictures
    other.goto("/ui/search?q=anything")
    expect(other.locator("[data-hit]")).to_have_count(30)
    other.locator("[data-hit]").first.evaluate("hit => { hit.isTheSame = true; }")
    other.get_by_role("link", name="Show more").click()
    expect(other.locator("[data-hit]")).to_have_count(40)
    assert other.locator("[data-hit]").first.evaluate("hit => hit.isTheSame")


def test_a_search_that_waits_for_the_weights_goes_on_by_itself(world, open_page):
    world.index({"/photos/red.jpg": "a red thing"})
    loaded = threading.Event()

    def load(spec):
        assert loaded.wait(60)
        return world.load(spec)

    with serving(world, load=load) as client:
        try:
            page = open_page(client.base_url)
            open_page.expected += ["status of 503", "status of 404"]  # the second: this file holds no picture
            page.goto("/ui/search")
            box(page).fill("red")
            expect(page.get_by_role("heading", name="The encoder is loading")).to_be_visible()
        finally:
            loaded.set()
        expect(page.locator("[data-live]")).to_have_text("1 image")
        expect(page.locator(".results-facts")).to_be_visible()


@pytest.mark.parametrize("path", ["/ui/search", "/ui/search?q=red", "/ui/search?like=3", "/ui/images/3", "/docs"])
def test_at_phone_width_nothing_is_wider_than_the_screen(open_page, photo_service, path):
    page = open_page(photo_service.base_url, viewport=PHONE, has_touch=True, is_mobile=True)
    page.goto(path)
    page.wait_for_load_state("networkidle")
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    assert page.evaluate("innerWidth") == PHONE["width"]


def brightness(page):
    """Of the background, 0 to 255."""
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3


def test_colours_follow_the_system_until_somebody_chooses(open_page, photo_service):
    dark = open_page(photo_service.base_url, color_scheme="dark")
    light = open_page(photo_service.base_url, color_scheme="light")
    for page in (dark, light):
        page.goto("/ui/search")
    assert brightness(dark) < 40
    assert brightness(light) > 220
    dark.get_by_role("button", name="Use light colours").click()
    assert brightness(dark) > 220
    dark.goto("/docs")
    assert brightness(dark) > 220


def test_without_scripts_words_likeness_and_a_file_find_images(open_page, photo_service, photos):
    page = open_page(photo_service.base_url, java_script_enabled=False)
    page.goto("/")
    box(page).fill("red")
    page.get_by_role("button", name="Search", exact=True).click()
    assert names(page) == found(photo_service, "red")
    page.locator("[data-hit]", has_text="coffee.png").get_by_role("link", name="coffee.png").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("coffee.png")
    page.get_by_role("link", name="More like this").click()
    expect(page.locator(".chip")).to_contain_text("More like coffee.png")
    page.get_by_label("Or search by an image").set_input_files(photos["coins"])
    page.get_by_role("button", name="Search by this image").click()
    expect(page.locator(".chip")).to_contain_text("Images like coins.png")
    assert names(page)[0] == "coins.png"
