"""The Python client against the real service with a real ledger."""

import asyncio

import pytest

from clip_pipeline.client import AnalysisTimeoutError, ApiError, AsyncClient, Client
from clip_pipeline_tests.defs.uploads import COLOUR_LABELS, picture
from clip_pipeline_tests.serving.lane import answer_all, label_images, lane
from clip_pipeline_tests.serving.world import StandInDagster, World, serving


@pytest.fixture
def world(tmp_path):
    dagster = StandInDagster()
    opened = World(tmp_path / "home", dagster_port=dagster.port, roots=str(tmp_path))
    yield opened
    opened.close()
    dagster.close()


@pytest.fixture
def url(world):
    with serving(world) as http:
        yield str(http.base_url)


def test_submit_follow_search_and_look_up(world, url, tmp_path):
    world.pin()
    red, blue = str(tmp_path / "red.jpg"), str(tmp_path / "blue.jpg")
    told = []

    def finish_when_seen(job):
        told.append(job.status)
        if job.status == "queued":
            world.embed({red: "a red thing", blue: "a blue thing"})
            world.publish()

    with Client(url) as client:
        submitted = client.add_images([red, blue, red], priority=3)
        assert (submitted.status, submitted.images_count, submitted.new_images_count) == ("queued", 2, 2)
        job = client.wait(submitted.job_id, on_progress=finish_when_seen, timeout_s=20)
        assert (job.status, job.progress.processed_images, told[0], told[-1]) == ("completed", 2, "queued", "completed")
        assert client.jobs().recent[0].job_id == submitted.job_id
        assert (client.stats().total_images, client.health().is_ok) == (2, True)
        assert client.image(red).state == "indexed"
        best = client.search(text="a red thing", k=1).results
        assert [hit.path for hit in best] == [red]
        assert client.search(image_path=blue, k=1).results[0].path == blue
        assert client.delete_images([red])["removed"] == 1
        assert client.search(text="a red thing", k=2).results[0].path == blue


def test_the_same_key_gives_the_same_job_and_a_job_can_be_canceled(url, tmp_path):
    with Client(url) as client:
        first, again = (client.add_images([tmp_path / "a.jpg"], idempotency_key="one") for _ in range(2))
        assert first.job_id == again.job_id
        assert client.cancel(first.job_id)["status"] == "canceled"
        assert client.wait(first.job_id, timeout_s=10).status == "canceled"
        assert client.retry_failed(first.job_id).status == "completed"


def test_a_refusal_is_an_error_with_its_status_fields_and_request_id(url):
    with Client(url) as client:
        with pytest.raises(ApiError) as caught:
            client.job("idx_nothing")
        assert (caught.value.status, caught.value.title) == (404, "Not Found")
        assert caught.value.request_id
        with pytest.raises(ApiError) as caught:
            client.add_images(["relative.jpg"])
        assert caught.value.status == 422
        assert caught.value.errors


def test_the_asynchronous_client_does_the_same(world, url):
    job_id = world.index({"/photos/red.jpg": "a red thing"})

    async def scene():
        async with AsyncClient(url) as client:
            jobs = await asyncio.gather(*(client.wait(job_id) for _ in range(5)))
            found = await client.search(text="a red thing", k=1)
            with pytest.raises(ApiError, match="idx_nothing"):
                await client.job("idx_nothing")
            return {job.status for job in jobs}, [hit.path for hit in found.results]

    assert asyncio.run(scene()) == ({"completed"}, ["/photos/red.jpg"])


def test_an_image_is_analyzed_as_a_file_and_as_bytes(world, url, tmp_path):
    world.pin()
    path = tmp_path / "rot.png"
    path.write_bytes(picture("red"))
    with lane(world), Client(url) as client:
        found = client.analyze(path, labels=COLOUR_LABELS, top_k=2, timeout_s=30)
        assert (found.status, found.filename, len(found.predictions)) == ("completed", "rot.png", 2)
        assert found.predictions[0].label == "something red"
        assert client.analyze(picture("blue"), labels=COLOUR_LABELS).predictions[0].label == "something blue"
        failed = client.analyze(picture("green", side=300)[:150], labels=["cat"])
        assert failed.status == "failed"
        assert failed.error_message
        with pytest.raises(ApiError, match="could not be analyzed"):
            client.analysis_result(failed.request_id)
        assert client.analysis_stats().completed == 2


def test_a_request_is_submitted_followed_listed_and_deleted(world, url):
    world.pin()
    with Client(url) as client:
        first, again = (
            client.submit_analysis(picture("red"), filename="a.png", labels=["cat"], idempotency_key="one")
            for _ in range(2)
        )
        assert (first.request_id, first.status) == (again.request_id, "submitted")
        with pytest.raises(AnalysisTimeoutError) as caught:
            client.wait_for_analysis(first.request_id, timeout_s=0.1)
        assert caught.value.analysis.status == client.analysis_result(first.request_id).status == "submitted"
        answer_all(world)
        assert client.wait_for_analysis(first.request_id) == client.analysis_result(first.request_id)
        assert [one.filename for one in client.analyses()] == ["a.png"]
        client.delete_analysis(first.request_id)
        with pytest.raises(ApiError, match="no analysis request"):
            client.analysis_status(first.request_id)
        with pytest.raises(ApiError, match="expected 1 to 5000 labels"):
            client.submit_analysis(picture("red"), labels=[])
        with pytest.raises(TypeError, match="put it into a list"):
            client.submit_analysis(picture("red"), labels="cat,dog")


def test_label_sets_are_created_used_and_searched_by(world, url):
    world.index({"/photos/red.jpg": "a red thing", "/photos/blue.jpg": "a blue thing"})
    with Client(url) as client:
        created = client.create_label_set("colours", COLOUR_LABELS, templates=["{}"])
        assert (created.version, created.labels, created.in_use) == (1, COLOUR_LABELS, False)
        assert client.use_label_set("colours").in_use
        assert client.label_set("colours", version=1).labels == COLOUR_LABELS
        assert [one.name for one in client.label_sets() if one.in_use] == ["colours"]
        label_images(world)
        assert client.collection_labels().images == {"something blue": 1, "something red": 1}
        found = client.search(text="thing", filter={"label": "something red", "label_min_confidence": 0.5})
        assert [hit.path for hit in found.results] == ["/photos/red.jpg"]


def test_the_asynchronous_client_analyzes_and_has_every_method_of_the_other(world, url):
    world.pin()

    async def scene():
        async with AsyncClient(url) as client:
            colours = ("red", "green", "blue")
            found = await asyncio.gather(*(client.analyze(picture(c), labels=COLOUR_LABELS) for c in colours))
            submitted = await client.submit_analysis(picture("red"), labels=["cat"])
            waited = await client.wait_for_analysis(submitted.request_id, timeout_s=20)
            sets = await client.label_sets()
            return [one.predictions[0].label for one in found], waited.status, sets[0].name

    with lane(world):
        labels, status, name = asyncio.run(scene())
    assert labels == ["something red", "something green", "something blue"]
    assert (status, name) == ("completed", "everyday")
    public = [{name for name in dir(kind) if not name.startswith("_")} for kind in (Client, AsyncClient)]
    assert public[0] ^ public[1] == {"close", "aclose"}
