"""`GET /workers`: those of the ledger and those of the fleet file, each once, with what they are and do."""

import pytest

from clip_pipeline.ledger.api_keys import Scope, create_key
from clip_pipeline.serving.worker_documents import STATES
from clip_pipeline.serving.worker_models import WorkersModel
from clip_pipeline_tests.serving.fleet import RUN_ID, enter, enter_all, write_fleet
from clip_pipeline_tests.serving.world import World, serving


def workers_of(client):
    response = client.get("/workers")
    assert response.status_code == 200, response.text
    assert response.headers["cache-control"] == "no-store"
    WorkersModel.model_validate(response.json())
    return response.json()


def by_host(document):
    return {worker["host"]: worker for worker in document["workers"]}


def test_without_workers_and_without_a_fleet_nothing_is_listed(client):
    assert workers_of(client) == {
        "workers": [], "counts": dict.fromkeys(STATES, 0), "alive": 0, "images_per_s": 0, "fleet_file": None,
        "fleet_fault": None,
    }  # fmt: skip


def test_those_to_look_after_come_first_and_the_dead_count_for_nothing(world, client, dagster):
    enter_all(world)
    document = workers_of(client)
    assert [worker["state"] for worker in document["workers"]] == [
        "lost", "starting", "draining", "busy", "ready", "left",
    ]  # fmt: skip
    assert (document["alive"], document["images_per_s"]) == (4, 1855.75)
    assert document["counts"] == dict.fromkeys(STATES, 1) | {"absent": 0}
    found = by_host(document)
    assert found["gpu01"]["runs"] == [{"run_id": RUN_ID, "url": f"http://127.0.0.1:{dagster.port}/runs/{RUN_ID}"}]
    assert (found["gpu05"]["runs"], found["gpu05"]["images_per_s"]) == ([], 0)
    assert found["gpu05"]["silent_s"] > 1000
    assert 0 <= found["gpu01"]["silent_s"] < 10
    assert {worker["in_fleet"] for worker in document["workers"]} == {None}


def test_the_fleet_file_tells_who_never_came_and_who_is_nobodys(tmp_path, dagster):
    path = write_fleet(tmp_path / "fleet.yaml", "gpu01", "gpu09")
    world = World(tmp_path / "home", dagster_port=dagster.port, fleet=str(path))
    enter(world, "gpu01")
    enter(world, "gpu02")
    with serving(world) as client:
        found = by_host(workers_of(client))
        assert [(found[host]["state"], found[host]["in_fleet"], found[host]["slots"]) for host in sorted(found)] == [
            ("starting", True, 2), ("starting", False, None), ("absent", True, 2),
        ]  # fmt: skip
        write_fleet(path, "gpu02")
        assert {host: worker["in_fleet"] for host, worker in by_host(workers_of(client)).items()} == {
            "gpu01": False, "gpu02": True,
        }  # fmt: skip
        path.write_text("gpu: [{host: gpu02}]")
        document = workers_of(client)
        assert "port must be" in document["fleet_fault"]
        assert {worker["in_fleet"] for worker in document["workers"]} == {None}
    world.close()


def test_reading_is_enough_and_needed(world, client):
    token = create_key(world.ledger, "reader", scope=Scope.READ, expires_at=None).token
    assert client.get("/workers", headers={"X-API-Key": token}).status_code == 200
    assert client.get("/workers", headers={"X-API-Key": "clip_no_no"}).status_code == 401


@pytest.mark.parametrize("model", ["WorkersModel", "WorkerModel"])
def test_the_schema_describes_the_answer_with_an_example_that_fits_it(client, model):
    schema = client.get("/openapi.json").json()
    assert model in schema["components"]["schemas"]
    answer = schema["paths"]["/workers"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert answer == {"$ref": "#/components/schemas/WorkersModel"}
    (example,) = WorkersModel.model_json_schema()["examples"]
    WorkersModel.model_validate(example)
