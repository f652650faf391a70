"""The page about workers: who computes embeddings, on what, with which runs and how fast."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from clip_pipeline.serving.pages.site import render
from clip_pipeline.serving.services import OpenServices
from clip_pipeline.serving.worker_documents import ALIVE, workers_document

router = APIRouter(prefix="/ui/workers", include_in_schema=False)


@router.get("")
def workers(request: Request, services: OpenServices) -> Response:
    """All workers, those to look after first."""
    document = workers_document(services.ledger, services.orchestrator, services.settings.fleet_path)
    alive = [worker for worker in document["workers"] if worker["state"] in ALIVE]
    in_use = sum(len(worker["runs"]) for worker in alive)
    slots = sum(worker["slots"] or 0 for worker in alive)
    context = {"page": document, "alive": alive, "in_use": in_use, "slots": slots}
    return render(request, "workers.html", context)
