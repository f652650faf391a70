"""The index service, what changes jobs: submit images, try the failed ones again, cancel."""

from collections.abc import Callable
from typing import Annotated, TypeVar

import anyio.to_thread
from fastapi import APIRouter, Header, Request
from starlette.responses import JSONResponse

from clip_pipeline.core.errors import NotFoundError
from clip_pipeline.ledger.registration import Registration
from clip_pipeline.serving.api_models import CanceledJobModel, RetriedJobModel, SubmittedJobModel
from clip_pipeline.serving.cancellation import cancel
from clip_pipeline.serving.documents import canceled_document, is_queued, submission_document
from clip_pipeline.serving.openapi import body_of, problems
from clip_pipeline.serving.request_body import parsed, read_json
from clip_pipeline.serving.services import OpenServices, Services
from clip_pipeline.serving.submissions import AddImagesBody, checked_key, retry, submit

MAX_PATHS_BYTES = 64 * 1024**2
"""A hundred thousand paths of 600 bytes; paths of ordinary length take a tenth."""

Value = TypeVar("Value")

router = APIRouter(prefix="/api/v1/index", tags=["jobs"])


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
        str | None, Header(description="the same key with the same body gives the same job and answer")
    ] = None,
) -> JSONResponse:
    """Queue images for indexing, as one job."""
    key = checked_key(idempotency_key)
    content = await read_json(request, max_bytes=MAX_PATHS_BYTES)

    def work() -> Registration:
        body = parsed(lambda: AddImagesBody.model_validate_json(content))
        return submit(services.ledger, services.settings, body, idempotency_key=key)

    registration = await _in_thread(services, work)
    return JSONResponse(submission_document(registration), 202 if is_queued(registration) else 200)


@router.post(
    "/jobs/{job_id}/retry",
    status_code=202,
    response_model=RetriedJobModel,
    responses={200: {"model": RetriedJobModel, "description": "No image of the job failed: there is nothing to do"}}
    | problems({404: "No job has this id"}),
)
async def retry_job(services: OpenServices, job_id: str) -> JSONResponse:
    """Queue the failed images of a job again, as a new job."""
    known = known_job_id(job_id)
    registration = await _in_thread(services, lambda: retry(services.ledger, known))
    document = submission_document(registration) | {"retry_of": known}
    return JSONResponse(document, 202 if is_queued(registration) else 200)


@router.delete(
    "/jobs/{job_id}",
    response_model=CanceledJobModel,
    responses=problems({404: "No job has this id", 409: "The job is complete"}),
)
async def cancel_job(services: OpenServices, job_id: str) -> JSONResponse:
    """Cancel a job: its unfinished images leave the queue, the runs that serve nobody else are ended."""
    known = known_job_id(job_id)
    canceled = await _in_thread(services, lambda: cancel(services.ledger, services.orchestrator, known))
    return JSONResponse(canceled_document(canceled))


async def _in_thread(services: Services, work: Callable[[], Value]) -> Value:
    return await anyio.to_thread.run_sync(work, limiter=services.write_threads)


def known_job_id(text: str) -> str:
    """The id in a path. One with a null character is nobody's, and not every database takes the question."""
    if "\0" in text:
        raise NotFoundError("no job has an id with a null character")
    return text
