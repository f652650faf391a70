"""The index service, what changes jobs: submit images, try the failed ones again, cancel."""

import logging
from typing import Annotated

from fastapi import APIRouter, Header, Request
from starlette.responses import JSONResponse

from clip_pipeline.core.errors import NotFoundError
from clip_pipeline.serving.api_models import CanceledJobModel, RetriedJobModel, SubmittedJobModel
from clip_pipeline.serving.cancellation import cancel
from clip_pipeline.serving.documents import canceled_document, is_queued, submission_document
from clip_pipeline.serving.openapi import body_of, problems
from clip_pipeline.serving.registrar import SMALL_BYTES
from clip_pipeline.serving.request_body import json_file
from clip_pipeline.serving.services import OpenServices
from clip_pipeline.serving.submissions import AddImagesBody, checked_key, retry

router = APIRouter(prefix="/api/v1/index", tags=["jobs"])
logger = logging.getLogger(__name__)


@router.post(
    "/add-images",
    status_code=202,
    response_model=SubmittedJobModel,
    responses={200: {"model": SubmittedJobModel, "description": "Every path is known: the job is complete"}}
    | problems({409: "The idempotency key was used for another request", 413: "The body is too large",
                415: "The body is not JSON", 422: "A path is refused; nothing was queued"}),
    openapi_extra=body_of(AddImagesBody),
)  # fmt: skip
async def add_images(
    services: OpenServices,
    request: Request,
    idempotency_key: Annotated[
        str | None,
        Header(description="the same key with the same body, from the same client, gives the same job and answer"),
    ] = None,
) -> JSONResponse:
    """Queue images for indexing, as one job."""
    key = checked_key(idempotency_key, owner=request.state.api_key)
    async with json_file(request, max_bytes=services.settings.max_body_bytes, in_memory=SMALL_BYTES) as body:
        registration = await services.registrar.submit(body, idempotency_key=key)
    logger.info("job submitted", extra={"job_id": registration.job_id, "images": registration.images_count})
    return JSONResponse(submission_document(registration), 202 if is_queued(registration) else 200)


@router.post(
    "/jobs/{job_id}/retry",
    status_code=202,
    response_model=RetriedJobModel,
    responses={200: {"model": RetriedJobModel, "description": "No image of the job failed: there is nothing to do"}}
    | problems({404: "No job has this id", 422: "None of the failed images may be looked at any more"}),
)
async def retry_job(services: OpenServices, job_id: str) -> JSONResponse:
    """Queue the failed images of a job again, as a new job; those outside the roots by now are left out and named."""
    known = known_job_id(job_id)
    retried = await services.in_write_thread(lambda: retry(services.ledger, services.settings, known))
    document = submission_document(retried.registration) | {
        "retry_of": known,
        "left_out": [{"path": path.path, "detail": path.detail} for path in retried.left_out],
        "left_out_count": retried.left_out_count,
    }
    return JSONResponse(document, 202 if is_queued(retried.registration) else 200)


@router.delete(
    "/jobs/{job_id}",
    response_model=CanceledJobModel,
    responses=problems({404: "No job has this id", 409: "The job is complete"}),
)
async def cancel_job(services: OpenServices, job_id: str) -> JSONResponse:
    """Cancel a job: its unfinished images leave the queue, the runs that serve nobody else are ended."""
    known = known_job_id(job_id)
    canceled = await services.in_write_thread(lambda: cancel(services.ledger, services.orchestrator, known))
    return JSONResponse(canceled_document(canceled))


def known_job_id(text: str) -> str:
    """The id in a path. One with a null character is nobody's, and not every database takes the question."""
    if "\0" in text:
        raise NotFoundError("no job has an id with a null character")
    return text
