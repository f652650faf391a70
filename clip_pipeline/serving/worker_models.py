"""The answer of `GET /workers` as a model, for the OpenAPI schema and the tests; see `worker_documents`."""

from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

State: TypeAlias = Literal["lost", "absent", "starting", "draining", "busy", "ready", "left"]

_RUN_ID = "5f0c2c1e-8f0e-4b6a-9a57-0d8f5b2f3a11"
_WORKER: dict[str, Any] = {
    "address": "gpu01:4000", "host": "gpu01", "port": 4000, "state": "busy", "detail": "", "in_fleet": True, "slots": 1,
    "runs": [{"run_id": _RUN_ID, "url": f"http://127.0.0.1:3000/runs/{_RUN_ID}"}], "images_per_s": 1843.2,
    "name": "gpu01", "gpu": "cuda:0, NVIDIA H200", "machine": "gpu01", "pid": 2211, "encoder": "clip-ViT-L-14",
    "fingerprint": "3d2f1a...", "version": "0.1.0", "dagster_version": "1.13.27",
    "started_at": "2025-11-14T09:00:02.101Z", "seen_at": "2025-11-14T14:30:25.142Z", "silent_s": 2.4,
}  # fmt: skip
_FLEET: dict[str, Any] = {
    "workers": [_WORKER], "alive": 1, "images_per_s": 1843.2, "fleet_file": "/etc/clip-pipeline/fleet.yaml",
    "counts": {"lost": 0, "absent": 0, "starting": 0, "draining": 0, "busy": 1, "ready": 0, "left": 0},
    "fleet_fault": None,
}  # fmt: skip


class WorkerRunModel(BaseModel):
    """A run that a worker works on, and its page in the Dagster UI."""

    model_config = ConfigDict(extra="forbid")

    run_id: str
    url: str


class WorkerModel(BaseModel):
    """One worker: what it said of itself last. An absent one never said anything: its fields are null.

    `silent_s`: since its last word. `in_fleet`: whether the fleet file names it; null where there is no such file.
    `slots`: how many runs of one Dagster job the fleet file lets start there at once; null where it does not name it.
    `lost` are those that have been silent for 15 seconds and did not say that they leave.
    """

    model_config = ConfigDict(extra="forbid")

    address: str
    host: str
    port: int
    state: State
    detail: str
    in_fleet: bool | None
    slots: int | None
    runs: list[WorkerRunModel]
    images_per_s: float
    name: str | None
    gpu: str | None
    machine: str | None
    pid: int | None
    encoder: str | None
    fingerprint: str | None
    version: str | None
    dagster_version: str | None
    started_at: str | None
    seen_at: str | None
    silent_s: float | None


class WorkersModel(BaseModel):
    """All workers, those to look after first; `alive` are those that are neither lost, absent nor left."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_FLEET]})

    workers: list[WorkerModel]
    counts: dict[State, int]
    alive: int
    images_per_s: float
    fleet_file: str | None
    fleet_fault: str | None
