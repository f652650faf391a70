"""The analysis service: take an image in, say where it stands, what was found in it."""

import time
import uuid
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from pydantic import BaseModel, ConfigDict
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from clip_pipeline.core.label_set import MAX_LABEL_CHARS, MAX_LABELS, split_labels
from clip_pipeline.ledger.analysis_lookup import Analysis, analysis_of, analysis_stats, recent_analyses
from clip_pipeline.ledger.api_keys import ApiKey
from clip_pipeline.ledger.states import FINAL_ANALYSES, AnalysisState
from clip_pipeline.serving.analysis_documents import (
    analysis_stats_document,
    history_document,
    result_document,
    status_document,
    submitted_document,
)
from clip_pipeline.serving.analysis_models import (
    AnalysisResultModel,
    AnalysisStatsModel,
    AnalysisStatusModel,
    HistoryModel,
    SubmittedAnalysisModel,
)
from clip_pipeline.serving.body_models import parsed
from clip_pipeline.serving.openapi import problems
from clip_pipeline.serving.problems import Problem
from clip_pipeline.serving.push.analysis_look import TOPIC
from clip_pipeline.serving.push.hub import End
from clip_pipeline.serving.push.watch import Watch
from clip_pipeline.serving.queries import InvalidFieldError
from clip_pipeline.serving.request_body import upload_form
from clip_pipeline.serving.services import OpenServices, Services
from clip_pipeline.serving.submissions import checked_key
from clip_pipeline.serving.uploads import Asked

MAX_FIELDS_BYTES = 4 * MAX_LABELS * (MAX_LABEL_CHARS + 1)
"""As many labels as there may be, as long as they may be, in the longest UTF-8."""
MAX_FIELDS = 4 * MAX_LABELS
"""Labels one by one, duplicates among them: too many of them are told so, not that a form has too many parts."""
PART_HEADER_BYTES = 100
LONGEST_WAIT_S = 30.0
SMALL_RESULT_CHARS = 16 * 1024
"""Written out in less time than a thread takes; 1,000 labels are 60,000 characters."""
_KEYS = uuid.UUID("5e3c7f10-6a41-4d3a-9c0e-8b1d2f6a7c55")


router = APIRouter(tags=["analysis"])

_FORM = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "labels": {
            "type": "array", "items": {"type": "string"}, "maxItems": MAX_LABELS, "example": ["cat", "dog", "bicycle"],
            "description": "what the image may show: repeated, or comma separated; without, the label set in use",
        },
        "label_set": {"type": "string", "example": "everyday", "description": "a label set, in place of labels"},
        "top_k": {"type": "integer", "minimum": 1, "example": 5, "description": "so many predictions; without, all"},
    },
}  # fmt: skip
_BODY = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}}


class AnalysisFields(BaseModel):
    """The fields of an upload that come once."""

    model_config = ConfigDict(extra="forbid")

    label_set: str | None = None
    top_k: int | None = None


@router.post(
    "/analyze-image",
    status_code=202,
    response_model=SubmittedAnalysisModel,
    responses=problems({400: "The form cannot be read", 409: "The idempotency key was used for another request",
                        413: "The image is too large", 415: "Not an image of a supported format",
                        422: "The image is damaged or too large to decode, or a field does not fit",
                        503: "Too many images wait already", 507: "The disk is full; nothing was taken in"}),
    openapi_extra=_BODY,
)  # fmt: skip
async def analyze_image(
    services: OpenServices,
    request: Request,
    idempotency_key: Annotated[
        str | None, Header(description="the same key with the same image, labels and top_k gives the same request")
    ] = None,
) -> JSONResponse:
    """Take one image in for analysis. When this is answered the request is on disk."""
    key = checked_key(idempotency_key, owner=request.state.api_key)
    request_id = None if key is None else str(uuid.uuid5(_KEYS, key))
    _require_form(request)
    max_bytes = services.settings.max_image_bytes + MAX_FIELDS_BYTES + MAX_FIELDS * PART_HEADER_BYTES
    async with upload_form(
        request, max_bytes=max_bytes, max_fields=MAX_FIELDS, max_part_bytes=MAX_FIELDS_BYTES
    ) as fields:
        upload, asked = _asked(fields, request_id)
        analysis = await services.upload_turns.take(lambda: services.uploads.accept(upload.file, asked))
    document = submitted_document(analysis)
    return JSONResponse(document, 202, headers={"Location": document["links"]["status"]})


@router.get(
    "/status/{request_id}", response_model=AnalysisStatusModel, responses=problems({404: "No request has this id"})
)
async def analysis_status(services: OpenServices, request_id: str) -> JSONResponse:
    """Where one request stands."""
    return JSONResponse(status_document(await _read(services, request_id)))


@router.get(
    "/result/{request_id}",
    response_model=AnalysisResultModel,
    responses={202: {"model": AnalysisStatusModel, "description": "Not yet; ask again"}}
    | problems({404: "No request has this id", 422: "The image could not be analyzed; `detail` says why"}),
)
async def analysis_result(
    services: OpenServices,
    request: Request,
    request_id: str,
    wait: Annotated[
        float, Query(ge=0, le=LONGEST_WAIT_S, allow_inf_nan=False, description="seconds to wait for the result")
    ] = 0.0,
) -> Response:
    """The predictions for one image, best first; their confidences sum to 1 over all labels, before `top_k` cuts."""
    if wait:
        analysis = await _awaited(request, services, request_id, wait_s=wait)
    else:
        analysis = await _read(services, request_id)
    if analysis.result_json is None or len(analysis.result_json) <= SMALL_RESULT_CHARS:
        return _result(analysis)
    return await services.in_analysis_thread(lambda: _result(analysis))


@router.delete("/result/{request_id}", status_code=204, responses=problems({404: "No request has this id"}))
async def delete_result(services: OpenServices, request_id: str) -> Response:
    """Delete a request and its result, whatever its state, and its image where no other request has the same."""
    await services.in_analysis_thread(lambda: services.uploads.delete(request_id))
    return Response(status_code=204)


@router.get("/stats", response_model=AnalysisStatsModel)
async def stats(services: OpenServices) -> JSONResponse:
    """How many requests are in each state, of those that are kept."""
    found = await services.in_analysis_thread(lambda: analysis_stats(services.ledger))
    return JSONResponse(analysis_stats_document(found))


@router.get("/api/v1/analyses", response_model=HistoryModel)
async def history(
    services: OpenServices,
    before: Annotated[int | None, Query(ge=1, le=2**63 - 1, description="`next_before` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Response:
    """The newest requests, newest first, each with its best predictions."""

    def answer() -> Response:
        found = recent_analyses(services.ledger, before=before, most=limit)
        return JSONResponse(history_document(found, most=limit))

    return await services.in_analysis_thread(answer)


def _require_form(request: Request) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in ("", "application/x-www-form-urlencoded"):
        raise _no_file()
    if kind != "multipart/form-data":
        raise HTTPException(415, f"expected multipart/form-data with the image in the field `file`, got {kind}")


def _asked(form: FormData, request_id: str | None) -> tuple[UploadFile, Asked]:
    upload = form.get("file")
    if not isinstance(upload, UploadFile):
        raise _no_file()
    given = [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
    labels = [label for name, value in given if name == "labels" for label in split_labels(value)]
    fields = parsed(lambda: AnalysisFields.model_validate({n: v for n, v in given if n != "labels"}))
    has_labels = any(name == "labels" for name, _ in given)
    chosen = labels if has_labels else None
    return upload, Asked("api", upload.filename, chosen, fields.label_set, fields.top_k, request_id)


def _no_file() -> InvalidFieldError:
    return InvalidFieldError("file", "expected an image file in the multipart form field `file`")


def _result(analysis: Analysis) -> Response:
    if analysis.state is AnalysisState.FAILED:
        detail = f"the image could not be analyzed: {analysis.reason}"
        return Problem(422, detail, request_id=analysis.request_id, state=analysis.state, reason=analysis.reason)
    if analysis.state is AnalysisState.COMPLETED:
        return JSONResponse(result_document(analysis))
    return JSONResponse(status_document(analysis), 202, headers={"Retry-After": "1"})


async def _awaited(request: Request, services: Services, request_id: str, *, wait_s: float) -> Analysis:
    """The request when it is at its end, or as it stands after the wait."""
    watch: Watch = request.app.state.analysis_watch
    api_key: ApiKey | None = request.state.api_key
    deadline = time.monotonic() + wait_s
    with watch.hub.listening(topic=TOPIC, key=request_id, key_id=api_key and api_key.key_id) as listener:
        await watch.primed()
        analysis = await _read(services, request_id)
        while analysis.state not in FINAL_ANALYSES and (left_s := deadline - time.monotonic()) > 0:
            event = await listener.next(within_s=left_s)
            if isinstance(event, End):
                break
            if event is None or event.is_final:  # that it is worked on is no news for whoever waits for the end
                analysis = await _read(services, request_id)
    return analysis


async def _read(services: Services, request_id: str) -> Analysis:
    return await services.in_analysis_thread(lambda: analysis_of(services.ledger, request_id))
