"""The pages about single images: send one in, see what is on it, look back at those that were sent.

The form is answered with 303 to the page of the request, so that loading it again sends nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import quote

import anyio.to_thread
from fastapi import APIRouter, Header, Query, Request
from starlette.datastructures import UploadFile
from starlette.responses import RedirectResponse, Response

from clip_pipeline.core.errors import NoSpaceError, QueryError
from clip_pipeline.core.label_set import LabelSet, label_lines
from clip_pipeline.core.reasons import Reason
from clip_pipeline.ledger.analysis_lookup import analysis_of, recent_analyses
from clip_pipeline.ledger.label_sets import current_label_set, list_label_sets
from clip_pipeline.serving.pages.analysis_view import analysis_view
from clip_pipeline.serving.pages.site import check_token, posted_form, render
from clip_pipeline.serving.pages.static_files import static_url
from clip_pipeline.serving.pages.stats_view import meaning_of
from clip_pipeline.serving.problems import problem_of
from clip_pipeline.serving.queries import InvalidFieldError, UndecodableQueryError
from clip_pipeline.serving.request_body import upload_form
from clip_pipeline.serving.routes.analysis import MAX_FIELDS_BYTES
from clip_pipeline.serving.routes.images import matches_etag
from clip_pipeline.serving.services import OpenServices, Services
from clip_pipeline.serving.thumbnails import ThumbnailSide
from clip_pipeline.serving.uploads import Asked

PAGE = "/ui/analyze"
HISTORY = "/ui/analyses"
HISTORY_SHOWN, NEWEST_SHOWN = 50, 6
MAX_FIELDS = 16
TOP_K = "10"


router = APIRouter(prefix="/ui", include_in_schema=False)


@dataclass(frozen=True, slots=True)
class AnalyzeForm:
    """The fields as a person filled them in."""

    labels: str = ""
    label_set: str = ""
    top_k: str = TOP_K

    @classmethod
    def of(cls, fields: Mapping[str, str]) -> "AnalyzeForm":
        """From the fields of a request; a missing one is as the empty form has it."""
        return cls(fields.get("labels", ""), fields.get("label_set", ""), fields.get("top_k", TOP_K))

    def asked(self, filename: str | None) -> Asked:
        """What is asked of an upload. Labels may stand on lines of their own.

        Raises:
            InvalidFieldError: the number is none.
        """
        labels = ",".join(label_lines(self.labels))
        top_k = self.top_k.strip()
        if top_k and not (top_k.isascii() and top_k.isdecimal()):
            raise InvalidFieldError("top_k", "How many labels to show is a whole number from 1 on, or left empty.")
        return Asked(
            "page", filename, labels if labels.strip(", ") else None, self.label_set or None,
            int(top_k[:9]) if top_k else None,
        )  # fmt: skip


@router.get("/analyze")
async def analyze(request: Request, services: OpenServices) -> Response:
    """The form that sends an image in, and the newest of those that were sent."""
    return await services.in_analysis_thread(lambda: _form(request, services, AnalyzeForm()))


@router.post("/analyze")
async def send_image(request: Request, services: OpenServices) -> Response:
    """Take the image of the form in, or show the form again with what is wrong with it."""
    max_bytes = services.settings.max_image_bytes + 3 * MAX_FIELDS_BYTES  # an escaped byte takes three
    async with upload_form(
        request, max_bytes=max_bytes, max_fields=MAX_FIELDS, max_part_bytes=MAX_FIELDS_BYTES
    ) as given:
        fields = {name: value for name, value in given.items() if isinstance(value, str)}
        check_token(request, fields)
        form, upload = AnalyzeForm.of(fields), given.get("file")
        try:
            # A form whose file was left out holds an empty one without a name.
            if not isinstance(upload, UploadFile) or not (upload.filename or upload.size):
                raise InvalidFieldError("file", "Choose an image first.")
            file, asked = upload.file, form.asked(upload.filename)
            analysis = await services.upload_turns.take(lambda: services.uploads.accept(file, asked))
        except (QueryError, NoSpaceError) as error:
            return await _refused(request, services, form, error=error)
    return RedirectResponse(f"{PAGE}/{quote(analysis.request_id)}", 303)


@router.get("/analyses")
async def history(
    request: Request, services: OpenServices, before: Annotated[int | None, Query(ge=1, le=2**63 - 1)] = None
) -> Response:
    """The requests, newest first, a page at a time."""

    def answer() -> Response:
        found = recent_analyses(services.ledger, before=before, most=HISTORY_SHOWN + 1)
        shown = found[:HISTORY_SHOWN]
        next_url = f"{HISTORY}?before={shown[-1].seq}" if len(found) > HISTORY_SHOWN else None
        context = {"views": [analysis_view(one) for one in shown], "is_first_page": before is None}
        return render(request, "analyses.html", context | {"next_url": next_url})

    return await services.in_analysis_thread(answer)


@router.get("/analyze/{request_id}")
async def analysis(request: Request, services: OpenServices, request_id: str) -> Response:
    """One request: its image, its labels, or why it has none."""

    def answer() -> Response:
        return render(request, "analysis.html", {"view": analysis_view(analysis_of(services.ledger, request_id))})

    return await services.in_analysis_thread(answer)


@router.get("/analyze/{request_id}/thumbnail")
async def thumbnail(
    services: OpenServices,
    request_id: str,
    size: ThumbnailSide = ThumbnailSide.NORMAL,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """A small WebP of the image that was sent; a drawing in its place where that cannot be shown."""
    known = await services.in_analysis_thread(lambda: analysis_of(services.ledger, request_id))
    etag = f'"{known.sha256[:32]}-{int(size)}"'
    # Asked for again each time: it goes with its request.
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if matches_etag(if_none_match, etag):
        return Response(status_code=304, headers=headers)
    made = await anyio.to_thread.run_sync(
        lambda: services.thumbnails.webp_of_upload(known.sha256, size), limiter=services.thumbnail_threads
    )
    if isinstance(made, Reason):
        return RedirectResponse(static_url("no-picture.svg"), 307, headers={"Cache-Control": "no-store"})
    return Response(made, media_type="image/webp", headers=headers)


@router.post("/analyze/{request_id}/delete")
async def delete(request: Request, services: OpenServices, request_id: str) -> Response:
    """Delete a request with its image and its result, and show those that are left."""
    await posted_form(request)
    await services.in_analysis_thread(lambda: services.uploads.delete(request_id))
    return RedirectResponse(HISTORY, 303)


async def _refused(
    request: Request, services: Services, form: AnalyzeForm, *, error: QueryError | NoSpaceError
) -> Response:
    fault = str(error)
    if isinstance(error, UndecodableQueryError):
        fault = f"{meaning_of(error.reason.code)} ({error.reason})"
    status = problem_of(error).status_code
    return await services.in_analysis_thread(lambda: _form(request, services, form, fault=fault, status=status))


def _form(request: Request, services: Services, form: AnalyzeForm, *, fault: str = "", status: int = 200) -> Response:
    current = current_label_set(services.ledger)
    newest = [analysis_view(one) for one in recent_analyses(services.ledger, most=NEWEST_SHOWN)]
    context = {"form": form, "fault": fault[:1].upper() + fault[1:], "newest": newest, "in_use": current}
    return render(request, "analyze.html", context | {"names": _names(services, current)}, status=status)


def _names(services: Services, current: LabelSet) -> list[str]:
    """Names of the label sets that may be chosen in place of the one in use."""
    return sorted({stored.label_set.name for stored in list_label_sets(services.ledger)} - {current.name})
