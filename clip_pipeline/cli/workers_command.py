"""`clip-pipeline workers`: a table or JSON of who computes embeddings, and striking one off."""

from contextlib import closing
from typing import Any

from clip_pipeline.cli.configuration import existing_ledger, load_settings
from clip_pipeline.cli.output import console, count, error_console, print_json, print_table
from clip_pipeline.ledger.workers import forget_worker
from clip_pipeline.serving.orchestrator import local_orchestrator
from clip_pipeline.serving.pages.words import said_duration, said_rate
from clip_pipeline.serving.worker_documents import workers_document

_HEADERS = ("state", "worker", "device", "slots", "images/s", "since", "last word", "runs")


def show(*, as_json: bool) -> None:
    """Every worker; without any, how to start one."""
    settings = load_settings()
    with existing_ledger(settings) as ledger, closing(local_orchestrator(settings)) as orchestrator:
        document = workers_document(ledger, orchestrator, settings.fleet_path)
    if as_json:
        print_json(document)
        return
    if document["fleet_fault"]:
        error_console().print(f"The fleet file is faulty: {document['fleet_fault']}")
    if not document["workers"]:
        console().print("No worker was ever seen: runs start on the controller. Start one with `clip-pipeline worker`.")
        return
    print_table("", _HEADERS, [_row(worker) for worker in document["workers"]])
    rate = said_rate(document["images_per_s"])
    console().print(f"{count(document['alive'], 'worker')} alive of {len(document['workers'])}, {rate} together")


def forget(address: str) -> None:
    """Strike a worker off; it comes back by itself where it is started again."""
    with existing_ledger(load_settings()) as ledger:
        forget_worker(ledger, address)
    console().print(f"Worker {address} is struck off.")


def _row(worker: dict[str, Any]) -> tuple[str, ...]:
    runs = ", ".join(run["run_id"][:8] for run in worker["runs"])
    where = "" if worker["in_fleet"] in (True, None) else " (not in the fleet file)"
    slots = "" if worker["slots"] is None else str(worker["slots"])
    if worker["seen_at"] is None:
        return (worker["state"], worker["address"], "", slots, "", "", "never", "")
    return (
        worker["state"], worker["address"] + where, worker["gpu"], slots,
        f"{worker['images_per_s']:,.1f}" if worker["runs"] else "", worker["started_at"],
        f"{said_duration(worker['silent_s'])} ago", runs or worker["detail"],
    )  # fmt: skip
