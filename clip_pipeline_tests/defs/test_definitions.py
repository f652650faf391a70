"""Wiring: the code locations load anywhere, hold what they should, and `control` stays free of torch."""

import os
import subprocess
import sys

import dagster as dg
import pytest

from clip_pipeline.definitions import defs as control
from clip_pipeline.gpu_definitions import defs as gpu

SENSORS = {
    "control": {"watched_folders", "submissions", "unmerged_batches", "unlabelled_images", "run_failures"},
    "gpu": {"sealed_manifests", "analysis_requests", "label_sets"},
}


def test_the_assets_are_these_and_no_others():
    keys = {name: {spec.key.to_user_string() for spec in specs(d)} for name, d in locations().items()}
    assert keys == {
        "control": {"image_manifest", "merged_index", "image_labels"},
        "gpu": {"image_embeddings", "analysis_results", "label_embeddings"},
    }


def test_the_sensors_are_these_and_run_by_themselves():
    for name, definitions in locations().items():
        sensors = list(definitions.get_repository_def().sensor_defs)
        assert {sensor.name for sensor in sensors} == SENSORS[name]
        assert all(sensor.default_status.value == "RUNNING" for sensor in sensors)


def test_every_asset_names_a_pool_a_group_and_what_it_is():
    for definitions in locations().values():
        for spec in specs(definitions):
            assert spec.group_name in {"images", "embedding", "search", "analysis"}
            assert spec.description
        for asset in (made for made in made_here(definitions) if made.keys):
            assert asset.op.pool in {"inspect", "gpu", "index", "analysis", "labels"}


@pytest.mark.parametrize("module", ["clip_pipeline.definitions", "clip_pipeline.gpu_definitions"])
def test_a_location_loads_with_no_environment_and_without_torch(module: str, tmp_path):
    code = f"import {module}, sys; sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": os.getcwd()}, cwd=os.getcwd(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


def locations():
    return {"control": control, "gpu": gpu}


def made_here(definitions: dg.Definitions) -> list[dg.AssetsDefinition]:
    """The assets that this location makes; those of others, which it only names, are left out."""
    return [asset for asset in definitions.resolve_asset_graph().assets_defs if asset.is_executable]


def specs(definitions: dg.Definitions) -> list[dg.AssetSpec]:
    return [spec for asset in made_here(definitions) for spec in asset.specs]
