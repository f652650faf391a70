"""The pages about jobs as a browser without scripts has them: HTML and forms."""

import time

import pytest

from clip_pipeline.core.reasons import ReasonCode
from clip_pipeline.ledger.embedding_results import record_progress
from clip_pipeline.ledger.jobs import give_up_batch, job_counts
from clip_pipeline.serving.pages import error_pages
from clip_pipeline.serving.pages.job_forms import SubmitForm
from clip_pipeline.serving.pages.job_views import OPEN_SHOWN
from clip_pipeline_tests.ledger import steps
from clip_pipeline_tests.serving.pages.elements import get, read, send
from clip_pipeline_tests.serving.world import World, free_port, serving

RED, BLUE = {"/photos/red.jpg": "a red thing"}, {"/photos/blue.jpg": "a blue thing"}


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (folder / name).write_bytes(b"content of " + name.encode())
    return folder


@pytest.fixture
def open_world(tmp_path, dagster, photos):
    """A home in which images below `photos` may be registered."""
    opened = World(tmp_path / "home", dagster_port=dagster.port, roots=str(photos))
    yield opened
    opened.close()


@pytest.fixture
def open_client(open_world):
    with serving(open_world) as client:
        yield client


def inspected(world, contents):
    """Register, plan and inspect; returns the job id and the one batch."""
    world.pin()
    job_id = world.register(*contents).job_id
    (batch,) = steps.plan(world.ledger)
    steps.inspect(world.ledger, batch, contents)
    return job_id, batch


def failed_job(world, number, code=ReasonCode.CORRUPT):
    """A complete job in which all of `number` images failed."""
    contents = {f"/photos/{n:03d}.jpg": f"thing {n}" for n in range(number)}
    world.pin()
    job_id = world.register(*contents).job_id
    world.embed(contents, failing=dict.fromkeys(contents, code))
    world.publish()
    return job_id


def numbers(page):
    """What the page of a job counts, by its names."""
    listed = page.one("dl", class_="job-numbers")
    return {entry.one("dt").text: entry.one("dd").text for entry in listed.all("div")}


def job_of(response):
    """The id of the job that a form led to."""
    assert response.status_code == 303, response.text
    path = response.headers["location"]
    assert path.startswith("/ui/jobs/idx_")
    return path.removeprefix("/ui/jobs/").partition("?")[0]


def test_an_empty_list_says_so_offers_the_form_and_names_the_setting_that_is_missing(client):
    page = get(client, "/ui/jobs")
    assert "Nothing is under way." in page.text
    assert "No job has finished yet." in page.text
    assert "open" in page.one("details", id="add").attributes
    assert "CLIP_PIPELINE_ROOTS" in page.one(role="note").text


def test_jobs_under_way_come_first_with_how_far_they_are(world, client, dagster):
    done = world.index(RED)
    job_id, _ = inspected(world, BLUE | {"/photos/two.jpg": "two"})
    dagster.add_run(job_id, "run-1", "STARTED", start=time.time() - 5)
    page = get(client, "/ui/jobs")
    card = page.one("li", class_="job-card")
    assert card.one("a")["href"] == f"/ui/jobs/{job_id}"
    assert card.one(class_="badge").text == "running"
    assert (card.one("progress")["value"], card.one("progress")["max"]) == ("0", "2")
    (row,) = page.one("tbody").all("tr")
    assert [cell.text for cell in row.all("td")][:4] == [done, "completed", "1", "0"]


def test_pages_of_finished_jobs_lead_to_each_of_them_once(world, client):
    job_ids = {world.index({f"/photos/{n}.jpg": str(n)}) for n in range(2)}
    job_ids |= {world.register("/photos/0.jpg").job_id for _ in range(43)}
    seen, path = [], "/ui/jobs"
    while path:
        page = get(client, path)
        seen += [row.one("a").text for row in page.one("tbody").all("tr")]
        path = next((link["href"] for link in page.all("a", rel="next")), None)
    assert len(seen) == len(job_ids)
    assert set(seen) == job_ids


def test_the_page_of_a_running_job_counts_and_estimates(world, client, dagster):
    contents = {f"/photos/{n}.jpg": f"thing {n}" for n in range(8)}
    job_id, batch = inspected(world, contents)
    dagster.add_run(job_id, "run-one-0001", "STARTED", work="embed:b0000001", start=time.time() - 120)
    record_progress(world.ledger, batch, processed=2, run_id="run-one-0001")
    page = get(client, f"/ui/jobs/{job_id}")
    shown = numbers(page)
    assert page.one("h1").text == job_id
    assert (shown["Processed"], shown["Total"], shown["Failed"]) == ("2", "8", "0")
    assert shown["Rate"] in {"1.0 images/min", "0.9 images/min"}
    assert shown["Time left"].startswith("6 min")
    assert (page.one("progress")["value"], page.one("progress")["max"]) == ("2", "8")
    assert page.one("noscript").one("meta")["http-equiv"] == "refresh"
    link = page.one("table").one("a")
    assert link["href"] == f"http://127.0.0.1:{dagster.port}/runs/run-one-0001"
    assert link.text.startswith("run-one-")


def test_a_job_whose_images_are_all_done_waits_for_the_index_and_estimates_nothing(world, client, dagster):
    world.pin()
    job_id = world.register(*RED).job_id
    world.embed(RED)
    dagster.add_run(job_id, "run-1", "SUCCESS", work="embed:b0000001", start=time.time() - 60, end=time.time())
    page = get(client, f"/ui/jobs/{job_id}")
    assert numbers(page)["Time left"] == "\N{EN DASH}"
    assert "the index is being published" in page.one(class_="job-pace").text


def test_the_page_of_a_complete_job_stands_still(world, client):
    job_id = world.index(RED)
    page = get(client, f"/ui/jobs/{job_id}")
    assert list(page.all("noscript")) == []
    assert list(page.all(data_follow_job=f"/ws/jobs/{job_id}")) == []
    assert list(page.all("form")) == []
    assert numbers(page) == {"Processed": "1", "Failed": "0", "Total": "1"}


def test_failed_images_are_shown_with_their_reasons_a_page_at_a_time(world, client):
    job_id = failed_job(world, 103)
    first = get(client, f"/ui/jobs/{job_id}")
    rows = [[cell.text for cell in row.all("td")] for row in first.one("tbody").all("tr")]
    assert (len(rows), rows[0]) == (100, ["/photos/000.jpg", "corrupt"])
    second = get(client, first.one("a", rel="next")["href"])
    assert [next(row.all("td")).text for row in second.one("tbody").all("tr")] == [
        f"/photos/{n}.jpg" for n in range(100, 103)
    ]
    assert list(second.all("a", rel="next")) == []


def test_retry_makes_a_job_of_the_failed_images_and_leads_to_it(open_world, open_client, photos):
    paths = [str(photos / name) for name in ("a.jpg", "b.jpg")]
    open_world.pin()
    job_id = open_world.register(*paths).job_id
    open_world.embed(dict.fromkeys(paths, "x") | {paths[1]: "y"}, failing={paths[0]: ReasonCode.CORRUPT})
    open_world.publish()
    page = get(open_client, f"/ui/jobs/{job_id}")
    retried = job_of(send(open_client, page, f"/ui/jobs/{job_id}/retry"))
    assert retried != job_id
    assert job_counts(open_world.ledger, retried).total == 1
    assert get(open_client, f"/ui/jobs/{retried}").one(class_="job-heading").one(class_="badge").text == "queued"


def test_retry_of_images_outside_the_roots_says_so_and_makes_no_job(world, client):
    job_id = failed_job(world, 2)
    response = send(client, get(client, f"/ui/jobs/{job_id}"), f"/ui/jobs/{job_id}/retry")
    assert response.status_code == 422
    assert "CLIP_PIPELINE_ROOTS" in read(response).one(role="alert").text


def test_cancel_asks_first_and_takes_the_job_out_of_work(world, client):
    job_id = world.register("/photos/red.jpg").job_id
    page = get(client, f"/ui/jobs/{job_id}")
    assert "open" not in page.one("details", class_="job-cancel").attributes
    assert job_of(send(client, page, f"/ui/jobs/{job_id}/cancel")) == job_id
    after = get(client, f"/ui/jobs/{job_id}")
    assert after.one(class_="job-heading").one(class_="badge").text == "canceled"
    assert job_counts(world.ledger, job_id).canceled_at is not None


def test_cancel_of_a_job_that_is_complete_by_then_says_so(world, client):
    world.pin()
    job_id = world.register(*RED).job_id
    page = get(client, f"/ui/jobs/{job_id}")
    world.embed(RED)
    world.publish()
    response = send(client, page, f"/ui/jobs/{job_id}/cancel")
    assert response.status_code == 409
    assert job_id in read(response).one(role="alert").text


def test_work_that_was_given_up_says_why(world, client):
    job_id, batch = inspected(world, RED)
    give_up_batch(world.ledger, batch.number, error="the disk is full")
    page = get(client, f"/ui/jobs/{job_id}")
    assert page.one(class_="job-heading").one(class_="badge").text == "failed"
    assert "the disk is full" in page.one(role="alert").text


def test_submitted_paths_and_folders_become_one_job(open_world, open_client, photos):
    page = get(open_client, "/ui/jobs")
    assert str(photos) in page.one("form").text
    deeper = photos / "deeper"
    deeper.mkdir()
    (deeper / "c.jpg").write_bytes(b"c")
    response = send(
        open_client, page, "/ui/jobs",
        image_paths=f"  {photos}/a.jpg\r\n\r\n{photos}/missing.jpg\n", recursive_dirs=str(deeper), priority="7",
    )  # fmt: skip
    counts = job_counts(open_world.ledger, job_of(response))
    assert (counts.images_count, counts.new_images_count, counts.priority, counts.source) == (3, 3, 7, "api")


def test_refused_paths_are_named_each_with_its_reason_and_what_was_typed_is_kept(open_client, photos):
    typed = f"{photos}/a.jpg\n/etc/passwd\nrelative.jpg"
    response = send(
        open_client, get(open_client, "/ui/jobs"), "/ui/jobs", image_paths=typed, recursive_dirs="", priority="3"
    )
    assert response.status_code == 422
    page = read(response)
    rows = [[cell.text for cell in row.all("td")] for row in page.one(role="alert").one("tbody").all("tr")]
    assert [path for path, _ in rows] == ["/etc/passwd", "relative.jpg"]
    assert "CLIP_PIPELINE_ROOTS" in rows[0][1]
    assert "absolute" in rows[1][1]
    fields = page.one("form", action="/ui/jobs").fields()
    assert (fields["image_paths"].split(), fields["priority"]) == (typed.split(), "3")
    assert get(open_client, "/ui/jobs").one(id="active-heading").parent.text.endswith("Nothing is under way.")


@pytest.mark.parametrize(
    ("filled", "said"),
    [({}, "at least one image or folder"), ({"image_paths": "/a", "priority": "soon"}, "whole number"),
     ({"image_paths": "/a", "priority": "99999999"}, "priority from")],
)  # fmt: skip
def test_a_form_that_makes_no_sense_is_answered_with_what_is_wrong(open_client, filled, said):
    response = send(open_client, get(open_client, "/ui/jobs"), "/ui/jobs", **filled)
    assert response.status_code == 422
    assert said in read(response).one(role="alert").text


def test_markup_in_a_path_is_shown_as_text(open_client):
    hostile = "/x/<script>alert(1)</script>.jpg"
    response = send(open_client, get(open_client, "/ui/jobs"), "/ui/jobs", image_paths=hostile)
    assert "<script>alert" not in response.text
    assert read(response).one("tbody").one("td", class_="mono").text == hostile


@pytest.mark.parametrize("path", ["/ui/jobs/idx_nothing", "/ui/jobs/%00", "/ui/jobs/idx_nothing?failed_after=x"])
def test_a_job_that_is_not_there_is_a_page_that_says_so(client, path):
    page = get(client, path, status=404)
    assert "no job" in page.text.lower()


@pytest.mark.parametrize("action", ["retry", "cancel"])
def test_forms_for_a_job_that_is_not_there_are_answered_with_404(world, client, action):
    world.register("/photos/red.jpg")
    token = get(client, "/ui/jobs").one("form", action="/ui/jobs").fields()
    hidden = {name: value for name, value in token.items() if name not in ("image_paths", "recursive_dirs", "priority")}
    response = client.post(
        f"/ui/jobs/idx_nothing/{action}", data=hidden, headers={"Origin": str(client.base_url).rstrip("/")}
    )
    assert response.status_code == 404


def test_without_dagster_the_counts_are_there_and_the_page_says_what_is_missing(tmp_path):
    world = World(tmp_path / "home", dagster_port=free_port())
    job_id = world.index(RED)
    with serving(world) as client:
        page = get(client, f"/ui/jobs/{job_id}")
        assert numbers(page)["Processed"] == "1"
        assert "Dagster does not answer" in page.text
        world.register("/photos/other.jpg")
        assert "Dagster does not answer" in get(client, "/ui/jobs").text
    world.close()


def test_a_hundred_thousand_paths_go_through_the_form(open_world, open_client, photos):
    """A field of more than a megabyte was refused, and with it all that had been typed."""
    paths = "\r\n".join(f"{photos}/{n:06d}.jpg" for n in range(100_000))
    job_id = job_of(open_client.post("/ui/jobs", data={"image_paths": paths}, timeout=120))
    assert job_counts(open_world.ledger, job_id).total == 100_000


@pytest.mark.parametrize("character", ["\u2028", "\x85", "\x0b", "\x0c", "\x1c", "\x1e"])
def test_only_a_line_break_ends_a_path(character):
    """Names with characters that Python also splits lines at were torn apart, or lost them at their ends."""
    name = f"/photos/a{character}b{character}"
    form = SubmitForm(image_paths=f"  {name} \r\n{name}c\n\t\n/d")
    assert form.body().image_paths == [name, f"{name}c", "/d"]


def test_of_many_open_jobs_the_oldest_are_shown_and_that_there_are_more_is_said(world, client):
    """Those beyond the fiftieth were on no page, and nothing said so."""
    for n in range(OPEN_SHOWN):
        world.register(f"/photos/{n}.jpg")
    page = get(client, "/ui/jobs")
    assert len(list(page.all("li", class_="job-card"))) == OPEN_SHOWN
    assert "And more" not in page.text
    world.register("/photos/last.jpg")
    page = get(client, "/ui/jobs")
    assert len(list(page.all("li", class_="job-card"))) == OPEN_SHOWN
    assert f"And more: these are the {OPEN_SHOWN} oldest" in page.text


def test_an_error_page_that_cannot_be_drawn_leaves_the_problem_document(client, monkeypatch):
    """The answer was a bare 500, whatever the problem was."""

    def broken(*_args, **_options):
        raise OSError("no template")

    monkeypatch.setattr(error_pages, "render", broken)
    answer = client.get("/ui/jobs/idx_0")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert answer.json()["status"] == 404
    assert "x-request-id" in answer.headers
