"""The Python client against the real service with a real ledger."""

import asyncio

import pytest

from clip_pipeline.client import ApiError, AsyncClient, Client
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
