"""Is every part of the system well? One check for each, none of which raises."""

from dataclasses import dataclass, field

from clip_pipeline.core.errors import ClipPipelineError
from clip_pipeline.ledger.analysis_queue import waiting
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.jobs import indexed_images
from clip_pipeline.serving.analysis_documents import waiting_document
from clip_pipeline.serving.documents import Document, release_name
from clip_pipeline.serving.engine import SearchEngine
from clip_pipeline.serving.orchestrator import Orchestrator


@dataclass(frozen=True, slots=True)
class PartHealth:
    """One part. fault: what is wrong, None when nothing is; facts: what there is to know beside."""

    fault: str | None = None
    facts: Document = field(default_factory=dict)

    def as_document(self) -> Document:
        """`status`, the fault if any, and the facts."""
        if self.fault is None:
            return {"status": "ok"} | self.facts
        return {"status": "failing", "detail": self.fault} | self.facts


def health_of(ledger: Ledger, engine: SearchEngine, orchestrator: Orchestrator) -> dict[str, PartHealth]:
    """The health of each part by its name; takes as long as the slowest, at most a few seconds."""
    return {
        "database": database_health(ledger),
        "index": index_health(engine),
        "encoder": encoder_health(engine),
        "orchestrator": orchestrator_health(orchestrator),
    }


def database_health(ledger: Ledger) -> PartHealth:
    """Whether the ledger answers a query; and how many analysis requests wait, for how long."""
    try:
        return PartHealth(facts={"images": indexed_images(ledger), "analysis": waiting_document(waiting(ledger))})
    except Exception as error:  # noqa: BLE001 - whatever the driver raises, the database is at fault
        return PartHealth(f"the ledger does not answer: {error}")


def index_health(engine: SearchEngine) -> PartHealth:
    """Whether the published release is the one served. Before the first there is nothing to be wrong."""
    try:
        served = engine.served()
    except ClipPipelineError as error:
        return PartHealth(str(error))
    if served is None:
        return PartHealth()
    reader, rejected = served.releases.reader, served.releases.rejected
    facts: Document = {} if reader is None else {"release": release_name(reader.release.number)}
    if rejected is None:
        return PartHealth(facts=facts)
    name = "the published release" if rejected.number is None else f"release {release_name(rejected.number)}"
    return PartHealth(f"{name} is not served: {rejected.reason}", facts)


def encoder_health(engine: SearchEngine) -> PartHealth:
    """Whether the encoder could be loaded; one that is still loading is well."""
    try:
        served = engine.served()
    except ClipPipelineError as error:
        return PartHealth(str(error))
    if served is None:
        return PartHealth(facts={"state": "not chosen yet"})
    return PartHealth(served.slot.fault, {"name": served.spec.name, "state": served.slot.state})


def orchestrator_health(orchestrator: Orchestrator) -> PartHealth:
    """Whether Dagster's webserver answers and its daemons show signs of life."""
    try:
        return PartHealth(orchestrator.daemon_fault(), {"url": orchestrator.url})
    except ClipPipelineError as error:
        return PartHealth(str(error), {"url": orchestrator.url})
