"""The index service: what the index holds and where its jobs stand."""

from fastapi import APIRouter
from starlette.responses import JSONResponse

from clip_pipeline.serving.documents import overall_status_document, stats_document, status_document
from clip_pipeline.serving.services import OpenServices

router = APIRouter(prefix="/api/v1/index", tags=["index"])


@router.get("/stats")
def stats(services: OpenServices) -> JSONResponse:
    """What the index holds."""
    return JSONResponse(stats_document(services.ledger, services.store))


@router.get("/status")
def overall_status(services: OpenServices) -> JSONResponse:
    """The jobs that are open and the newest ones."""
    return JSONResponse(overall_status_document(services.ledger, services.store, services.orchestrator))


@router.get("/status/{job_id}")
def status(job_id: str, services: OpenServices) -> JSONResponse:
    """Where one job stands."""
    return JSONResponse(status_document(services.ledger, services.orchestrator, job_id))
