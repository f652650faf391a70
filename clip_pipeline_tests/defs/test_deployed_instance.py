"""deploy/dagster.yaml on a real PostgreSQL server: it is an instance, launches by the fleet, and keeps what it runs."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml

from clip_pipeline.defs.fleet import FleetRunLauncher
from clip_pipeline.defs.instance import POOL_LIMITS, set_pool_limits
from clip_pipeline.defs.partitions import image_batches
from clip_pipeline_tests.postgres import PostgresServer

ROOT = Path(__file__).resolve().parents[2]
DEPLOYED = ROOT / "deploy" / "dagster.yaml"


@dg.asset(partitions_def=image_batches)
def counted(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata={"batch": context.partition_key})


@pytest.fixture
def instance(tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    url = postgres.new_empty_database()
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text("gpu: [{host: gpu01.example.org, port: 4000, slots: 1}]\n")
    home = tmp_path / "dagster"
    home.mkdir()
    shutil.copy(DEPLOYED, home / "dagster.yaml")
    for name, value in {
        "DAGSTER_HOME": home, "DAGSTER_POSTGRES_URL": url, "CLIP_PIPELINE_FLEET": fleet,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))
    with dg.DagsterInstance.get() as made:
        yield made
    postgres.drop_database(url)


def test_everything_is_kept_in_postgresql_and_runs_start_by_the_fleet_launcher(instance):
    storages = (instance.run_storage, instance.event_log_storage, instance.schedule_storage)
    assert {type(storage).__module__.partition(".")[0] for storage in storages} == {"dagster_postgres"}
    assert isinstance(instance.run_launcher, FleetRunLauncher)
    assert instance.run_launcher.supports_check_run_worker_health
    assert instance.run_monitoring_enabled


def test_a_partition_is_materialized_and_found_again_by_another_instance(instance):
    instance.add_dynamic_partitions(str(image_batches.name), ["b0000001", "b0000002"])
    result = dg.materialize([counted], instance=instance, partition_key="b0000002", tags={"clip/job/idx_1": "1"})
    assert result.success
    with dg.DagsterInstance.get() as other:
        (run,) = other.get_runs(dg.RunsFilter(tags={"clip/job/idx_1": "1"}))
        assert run.status == dg.DagsterRunStatus.SUCCESS
        assert other.get_materialized_partitions(dg.AssetKey("counted")) == {"b0000002"}
        assert other.get_dynamic_partitions(str(image_batches.name)) == ["b0000001", "b0000002"]


def test_every_pool_gets_its_limit(instance):
    assert set(set_pool_limits(instance, POOL_LIMITS)) == set(POOL_LIMITS)
    pools = {pool.name: (pool.limit, pool.from_default) for pool in instance.event_log_storage.get_pool_limits()}
    assert pools == {name: (limit, False) for name, limit in POOL_LIMITS.items()}


def test_it_differs_from_the_instance_of_one_machine_only_in_what_a_fleet_needs():
    deployed, local = (yaml.safe_load(path.read_text()) for path in (DEPLOYED, ROOT / "dagster.yaml"))
    differing = {name for name in deployed.keys() | local.keys() if deployed.get(name) != local.get(name)}
    assert differing == {
        "storage", "run_launcher", "concurrency", "run_monitoring", "sensors", "backfills",
    }  # fmt: skip
    assert deployed["concurrency"]["pools"] == local["concurrency"]["pools"] == {"granularity": "run"}
