"""The pages about jobs: all of them, one of them, and the forms that submit, try again and cancel.

Each form is answered with 303 to the page of the job, so that loading it again submits nothing.
"""

from tempfile import SpooledTemporaryFile
from typing import IO, Annotated
from urllib.parse import quote, urlencode

import anyio.to_thread
from fastapi import APIRouter, Query, Request
from starlette.responses import RedirectResponse, Response

from clip_pipeline.core.errors import ConflictError
from clip_pipeline.ledger.job_history import JobPosition
from clip_pipeline.serving.cancellation import cancel
from clip_pipeline.serving.pages.job_forms import InvalidFormError, Refused, SubmitForm, refused
from clip_pipeline.serving.pages.job_views import SOURCES, job_page, jobs_page
from clip_pipeline.serving.pages.site import MAX_FORM_BYTES, posted_form, render
from clip_pipeline.serving.path_checks import RefusedPathsError
from clip_pipeline.serving.queries import InvalidFieldError, PlainText
from clip_pipeline.serving.registrar import SMALL_BYTES
from clip_pipeline.serving.routes.jobs import known_job_id
from clip_pipeline.serving.services import OpenServices, Services
from clip_pipeline.serving.submissions import retry

router = APIRouter(prefix="/ui/jobs", include_in_schema=False)


@router.get("")
def jobs(
    request: Request,
    services: OpenServices,
    created_before: PlainText = "",
    after: PlainText = "",
) -> Response:
    """The jobs under way, those that are over a page at a time, and the form that adds images."""
    place = JobPosition(created_before, after) if created_before else None
    return _jobs_response(request, services, place=place)


@router.post("")
async def submit_images(request: Request, services: OpenServices) -> Response:
    """Queue the images that the form names, or show it again with what was refused."""
    form = SubmitForm.of(await posted_form(request, max_bytes=MAX_FORM_BYTES, threads=services.write_threads))
    try:
        with SpooledTemporaryFile(max_size=SMALL_BYTES) as file:
            await services.in_write_thread(lambda: _write_json(form, file))
            registration = await services.registrar.submit(file)
    except (InvalidFormError, InvalidFieldError, RefusedPathsError) as error:
        shown = refused(error)
        return await anyio.to_thread.run_sync(lambda: _jobs_response(request, services, form=form, refusal=shown))
    return _see_job(registration.job_id)


@router.get("/{job_id}")
def job(
    request: Request,
    services: OpenServices,
    job_id: str,
    failed_after: PlainText = "",
    left_out: Annotated[int, Query(ge=0)] = 0,
) -> Response:
    """One job: how far it is, what failed, and its runs."""
    message = ""
    if left_out:
        message = f"{left_out:,} failed images are left out: they lie outside the folders that are allowed by now."
    return _job_response(request, services, job_id, failed_path=failed_after, message=message)


@router.post("/{job_id}/retry")
async def retry_failed(request: Request, services: OpenServices, job_id: str) -> Response:
    """Queue the failed images of a job as a new job, and show that."""
    await posted_form(request)
    known = known_job_id(job_id)
    try:
        retried = await services.in_write_thread(lambda: retry(services.ledger, services.settings, known))
    except RefusedPathsError as error:
        return await _with_error(request, services, known, error=str(error), status=422)
    return _see_job(retried.registration.job_id, left_out=retried.left_out_count)


@router.post("/{job_id}/cancel")
async def cancel_job(request: Request, services: OpenServices, job_id: str) -> Response:
    """Cancel a job and show how it stands."""
    await posted_form(request)
    known = known_job_id(job_id)
    try:
        await services.in_write_thread(lambda: cancel(services.ledger, services.orchestrator, known))
    except ConflictError as error:
        return await _with_error(request, services, known, error=str(error), status=409)
    return _see_job(known)


def _write_json(form: SubmitForm, file: IO[bytes]) -> None:
    file.write(form.body().model_dump_json().encode())


async def _with_error(request: Request, services: Services, job_id: str, *, error: str, status: int) -> Response:
    return await anyio.to_thread.run_sync(lambda: _job_response(request, services, job_id, error=error, status=status))


def _jobs_response(
    request: Request,
    services: Services,
    *,
    place: JobPosition | None = None,
    form: SubmitForm | None = None,
    refusal: Refused | None = None,
) -> Response:
    page = jobs_page(services.ledger, services.orchestrator, after=place)
    following = page.next_page
    next_url = None
    if following is not None:
        query = urlencode({"created_before": following.created_at, "after": following.job_id})
        next_url = f"/ui/jobs?{query}"
    context = {
        "page": page,
        "sources": SOURCES,
        "roots": services.settings.root_folders,
        "form": form or SubmitForm(),
        "refused": refusal,
        "is_first_page": place is None,
        "next_url": next_url,
    }
    return render(request, "jobs.html", context, status=422 if refusal else 200)


def _job_response(
    request: Request,
    services: Services,
    job_id: str,
    *,
    failed_path: str = "",
    message: str = "",
    error: str = "",
    status: int = 200,
) -> Response:
    page = job_page(services.ledger, services.orchestrator, known_job_id(job_id), failed_path=failed_path)
    next_url = None
    if page.failed_next is not None:
        query = urlencode({"failed_after": page.failed_next})
        next_url = f"/ui/jobs/{quote(job_id)}?{query}#failed-heading"
    context = {"page": page, "is_later_page": bool(failed_path), "next_url": next_url}
    context |= {"message": message, "error": error}
    return render(request, "job.html", context, status=status)


def _see_job(job_id: str, *, left_out: int = 0) -> Response:
    query = f"?left_out={left_out}" if left_out else ""
    return RedirectResponse(f"/ui/jobs/{quote(job_id)}{query}", 303)
