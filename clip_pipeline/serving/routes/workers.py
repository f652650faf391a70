"""The workers of the fleet."""

from fastapi import APIRouter
from starlette.responses import JSONResponse

from clip_pipeline.serving.services import OpenServices
from clip_pipeline.serving.worker_documents import workers_document
from clip_pipeline.serving.worker_models import WorkersModel

router = APIRouter(tags=["service"])


@router.get("/workers", response_model=WorkersModel)
def workers(services: OpenServices) -> JSONResponse:
    """Who computes embeddings: alive, lost or absent, on what, with which runs and how fast."""
    document = workers_document(services.ledger, services.orchestrator, services.settings.fleet_path)
    return JSONResponse(document, headers={"Cache-Control": "no-store"})
