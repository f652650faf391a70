"""`GET /workers`: the workers of the ledger and those of the fleet file, put together. No web framework here."""

from collections import Counter
from pathlib import Path

from clip_pipeline.core.fleet import FleetFile, Worker
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.workers import KnownWorker, WorkerState, list_workers
from clip_pipeline.serving.documents import Document
from clip_pipeline.serving.orchestrator import Orchestrator

ABSENT = "absent"
"""In the fleet file, and never heard of."""
LOCATION = "gpu"
STATES = (
    str(WorkerState.LOST), ABSENT, str(WorkerState.STARTING), str(WorkerState.DRAINING), str(WorkerState.BUSY),
    str(WorkerState.READY), str(WorkerState.LEFT),
)  # fmt: skip
"""In the order in which they are listed: what somebody may have to look after first."""
ALIVE = frozenset(map(str, WorkerState)) - {WorkerState.LOST, WorkerState.LEFT}


def workers_document(ledger: Ledger, orchestrator: Orchestrator, fleet_path: Path | None) -> Document:
    """Every worker, those to look after first, and how many there are in each state."""
    known = {worker.card.address: worker for worker in list_workers(ledger)}
    fleet, fault = _fleet(fleet_path)
    lines = [_line(worker, fleet, orchestrator) for worker in known.values()]
    lines += [_absent(worker) for address, worker in (fleet or {}).items() if address not in known]
    lines.sort(key=lambda line: (STATES.index(line["state"]), line["host"], line["port"]))
    counts = Counter(line["state"] for line in lines)
    alive = [line for line in lines if line["state"] in ALIVE]
    return {
        "workers": lines,
        "counts": {state: counts[state] for state in STATES},
        "alive": len(alive),
        "images_per_s": round(sum(line["images_per_s"] for line in alive), 3),
        "fleet_file": None if fleet_path is None else str(fleet_path),
        "fleet_fault": fault,
    }


def _fleet(path: Path | None) -> tuple[dict[str, Worker] | None, str | None]:
    """The workers of the file by address, None where there is no fleet or it cannot be read; and why not."""
    if path is None:
        return None, None
    found = FleetFile(path).look()
    if found.fleet is None:
        return None, found.fault
    return {worker.address: worker for worker in found.fleet.get(LOCATION, ())}, found.fault


def _line(worker: KnownWorker, fleet: dict[str, Worker] | None, orchestrator: Orchestrator) -> Document:
    card, report = worker.card, worker.report
    entry = (fleet or {}).get(card.address)
    runs = report.run_ids if worker.is_alive else ()
    return {
        "address": card.address,
        "host": card.host,
        "port": card.port,
        "state": str(worker.state),
        "detail": report.detail if worker.is_alive else "",
        "in_fleet": None if fleet is None else entry is not None,
        "slots": None if entry is None else entry.slots,
        "runs": [{"run_id": run_id, "url": orchestrator.run_url(run_id)} for run_id in runs],
        "images_per_s": report.images_per_s if worker.is_alive else 0.0,
        "name": card.name,
        "gpu": card.gpu,
        "machine": card.machine,
        "pid": card.pid,
        "encoder": card.encoder,
        "fingerprint": card.fingerprint,
        "version": card.version,
        "dagster_version": card.dagster_version,
        "started_at": worker.started_at,
        "seen_at": worker.seen_at,
        "silent_s": round(max(0.0, worker.silent_s), 1),
    }


def _absent(worker: Worker) -> Document:
    unknown = dict.fromkeys(
        ("name", "gpu", "machine", "pid", "encoder", "fingerprint", "version", "dagster_version", "started_at",
         "seen_at", "silent_s")
    )  # fmt: skip
    known = {"address": worker.address, "host": worker.host, "port": worker.port, "state": ABSENT, "detail": ""}
    return known | {"in_fleet": True, "slots": worker.slots, "runs": [], "images_per_s": 0.0} | unknown
