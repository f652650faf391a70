"""A pipeline in one process: real assets and sensors on a temporary home, an ephemeral instance, a cheap encoder."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import pytest

from clip_pipeline.core.encoder import Encoder
from clip_pipeline.core.pinning import pin_encoder
from clip_pipeline.defs.assets.analysis import analysis_results
from clip_pipeline.defs.assets.embeddings import image_embeddings
from clip_pipeline.defs.assets.labels import image_labels, label_embeddings
from clip_pipeline.defs.assets.manifests import image_manifest
from clip_pipeline.defs.assets.merged_index import ledger_balances, merged_index, release_checks
from clip_pipeline.defs.jobs import (
    analyze_images,
    embed_images,
    embed_labels,
    inspect_images,
    label_images,
    merge_index,
)
from clip_pipeline.defs.resources import EncoderResource, PipelineResource
from clip_pipeline.defs.sensors.analysis_requests import analysis_requests
from clip_pipeline.defs.sensors.labels import label_sets, unlabelled_images
from clip_pipeline.defs.sensors.sealed_manifests import sealed_manifests
from clip_pipeline.defs.sensors.submissions import submissions
from clip_pipeline.defs.sensors.unmerged_batches import unmerged_batches
from clip_pipeline.defs.sensors.watched_folders import watched_folders
from clip_pipeline.index.search import ReleaseReader
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.settings import Settings
from clip_pipeline_tests.fakes import HashEncoder
from clip_pipeline_tests.ledgers import with_tables


class HashEncoderResource(EncoderResource):
    """The cheap encoder in place of a real one; everything around it is what production runs."""

    def load(self, settings: Settings) -> Encoder:
        encoder = HashEncoder()
        pin_encoder(settings.store, encoder.spec)
        return encoder


@dataclass
class Pipeline:
    """The home, the watched folder, and one method for each thing the daemon would do."""

    home: Path
    folder: Path
    instance: dg.DagsterInstance
    resource: PipelineResource = field(default_factory=PipelineResource)

    @property
    def ledger(self) -> Ledger:
        return self.resource.ledger()

    @property
    def settings(self) -> Settings:
        return self.resource.settings()

    def definitions(self) -> dg.Definitions:
        return dg.Definitions(
            assets=[
                image_manifest, image_embeddings, merged_index, analysis_results, label_embeddings, image_labels,
            ],
            asset_checks=[ledger_balances, release_checks],
            jobs=[inspect_images, embed_images, merge_index, analyze_images, embed_labels, label_images],
            sensors=[
                watched_folders, submissions, sealed_manifests, unmerged_batches, analysis_requests, label_sets,
                unlabelled_images,
            ],
            resources={"pipeline": self.resource, "encoder": HashEncoderResource()},
            executor=dg.in_process_executor,
        )  # fmt: skip

    def tick(self, sensor: dg.SensorDefinition, cursor: str | None = None) -> dg.SensorResult:
        resources = {"pipeline": self.resource}
        with dg.build_sensor_context(instance=self.instance, cursor=cursor, resources=resources) as context:
            result = sensor(context)
        assert isinstance(result, dg.SensorResult)
        return result

    def run(self, job: str, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
        resolved = self.definitions().resolve_job_def(job)
        return resolved.execute_in_process(
            instance=self.instance, partition_key=request.partition_key, tags=request.tags, raise_on_error=False
        )

    def tick_and_run(self, sensor: dg.SensorDefinition, job: str) -> list[dg.ExecuteInProcessResult]:
        return [self.run(job, request) for request in self.tick(sensor).run_requests or []]

    def settle(self) -> None:
        """Tick and run until no sensor asks for anything more."""
        self.tick(watched_folders)
        for _ in range(10):
            done: Sequence[object] = [
                *self.tick_and_run(submissions, "inspect_images"),
                *self.tick_and_run(sealed_manifests, "embed_images"),
                *self.tick_and_run(unmerged_batches, "merge_index"),
            ]
            if not done:
                return
        raise AssertionError("the sensors never came to rest")

    def reader(self) -> ReleaseReader:
        return ReleaseReader.open(self.settings.store, HashEncoder().spec.key)

    def metadata(self, asset: str) -> dict[str, object]:
        records = self.instance.fetch_materializations(dg.AssetKey(asset), limit=1).records
        found = records[0].asset_materialization
        assert found is not None
        return {name: value.value for name, value in found.metadata.items()}


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipeline]:
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path / "dagster")) as instance:
        made = Pipeline(tmp_path / "home", tmp_path / "watched", instance)
        made.folder.mkdir()
        monkeypatch.setenv("CLIP_PIPELINE_HOME", str(made.home))
        monkeypatch.setenv("CLIP_PIPELINE_WATCH", str(made.folder))
        with_tables(made.settings.ledger_location)
        yield made
