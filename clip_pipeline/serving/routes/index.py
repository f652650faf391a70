"""The index service: what the index holds and where its jobs stand."""

from fastapi import APIRouter
from starlette.responses import JSONResponse

from clip_pipeline.serving.api_models import JobStatusModel, OverallStatusModel, StatsModel
from clip_pipeline.serving.documents import overall_status_document, stats_document, status_document
from clip_pipeline.serving.openapi import problems
from clip_pipeline.serving.routes.jobs import known_job_id
from clip_pipeline.serving.services import OpenServices

router = APIRouter(prefix="/api/v1/index", tags=["index"])


@router.get("/stats", response_model=StatsModel)
def stats(services: OpenServices) -> JSONResponse:
    """What the index holds."""
    return JSONResponse(stats_document(services.ledger, services.store))


@router.get("/status", response_model=OverallStatusModel)
def overall_status(services: OpenServices) -> JSONResponse:
    """The jobs that are open and the newest ones."""
    return JSONResponse(overall_status_document(services.ledger, services.store, services.orchestrator))


@router.get("/status/{job_id}", response_model=JobStatusModel, responses=problems({404: "No job has this id"}))
def status(job_id: str, services: OpenServices) -> JSONResponse:
    """Where one job stands."""
    return JSONResponse(status_document(services.ledger, services.orchestrator, known_job_id(job_id)))
