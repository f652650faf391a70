"""The header that says where the time of a search went."""

from clip_pipeline.serving.timings import Timings
from clip_pipeline_tests.serving.world import vector_near


def parts_of(response):
    return [part.partition(";dur=")[0] for part in response.headers["Server-Timing"].split(", ")]


def test_the_header_names_the_parts_that_took_time():
    assert Timings(encode=4.1, ledger=0.904).server_timing == "encode;dur=4.10, ledger;dur=0.90"
    assert Timings().server_timing == ""


def test_a_search_answers_with_the_parts_it_went_through(world, client):
    assert "Server-Timing" not in client.get("/api/v1/search", params={"q": "red"}).headers
    world.index({"/photos/red.jpg": "a red thing"})
    assert parts_of(client.get("/api/v1/search", params={"q": "red"})) == ["encode", "index", "ledger", "labels"]
    vector = vector_near(world.encoder, "red")
    assert parts_of(client.post("/api/v1/search", json={"vector": vector})) == ["index", "ledger", "labels"]
