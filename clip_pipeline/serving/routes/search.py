"""Search by text, by an indexed image, by a vector, or by an uploaded image."""

import time
from typing import Annotated

import anyio.to_thread
from fastapi import APIRouter, Query, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from clip_pipeline.serving.api_models import SearchModel
from clip_pipeline.serving.body_models import parsed
from clip_pipeline.serving.documents import search_document
from clip_pipeline.serving.openapi import body_of, problems
from clip_pipeline.serving.queries import (
    MAX_K,
    SearchAnswer,
    SearchBody,
    TextFields,
    TextQuery,
    UploadFields,
    Wanted,
)
from clip_pipeline.serving.queries import Query as SearchQuery
from clip_pipeline.serving.query_uploads import query_upload
from clip_pipeline.serving.request_body import kind_of, read_body
from clip_pipeline.serving.services import OpenServices, Services

MAX_JSON_BYTES = 1024**2

router = APIRouter(prefix="/api/v1/search", tags=["search"])

_UPLOAD = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "k": {"type": "integer", "minimum": 1, "maximum": MAX_K},
        "min_score": {"type": "number"},
        "filter": {"$ref": "#/components/schemas/FilterFields"},  # an object is sent as JSON, says OpenAPI
    },
}
_BODIES = body_of(SearchBody)
_BODIES["requestBody"]["content"]["multipart/form-data"] = {"schema": _UPLOAD}
_ANSWERS = problems(
    {
        409: "Of no image it is known whether it has the label; or the vector is of another encoder",
        422: "A field does not fit",
        503: "The encoder or the index cannot be used now",
    }
) | {
    200: {
        "headers": {
            "Server-Timing": {
                "description": "Milliseconds spent decoding an upload, encoding, in the index and in the ledger, "
                "waiting for a turn there included; absent before there is an index to search",
                "schema": {"type": "string"},
                "example": "encode;dur=4.10, index;dur=1.20, ledger;dur=0.90",
            }
        }
    }
}


@router.get("", response_model=SearchModel, responses=_ANSWERS)
async def search_by_text(services: OpenServices, fields: Annotated[TextFields, Query()]) -> JSONResponse:
    """The k images that fit the text `q` best, among those that fit the filter."""
    return await _answer(services, TextQuery(fields.q), fields.wanted)


@router.post(
    "",
    response_model=SearchModel,
    responses=_ANSWERS
    | problems({400: "The form cannot be read", 404: "The index holds no image at this path",
                409: "The vector is of another encoder", 413: "The body is too large",
                415: "Not a body or an image that can be used"}),
    openapi_extra=_BODIES,
)  # fmt: skip
async def search_by_example(services: OpenServices, request: Request) -> JSONResponse:
    """The images that fit best: multipart `file`, or JSON with one of `text`, `image_path` and `vector`."""
    kind = kind_of(request)
    if kind == "multipart/form-data":
        return await _search_by_upload(services, request)
    if kind != "application/json":
        raise HTTPException(415, f"expected application/json or multipart/form-data, got {kind or 'no content type'}")
    content = await read_body(request, max_bytes=MAX_JSON_BYTES)
    body = parsed(lambda: SearchBody.model_validate_json(content))
    return await _answer(services, body.query, body.wanted)


async def _search_by_upload(services: Services, request: Request) -> JSONResponse:
    async with query_upload(request, services.settings) as upload:
        wanted = parsed(lambda: UploadFields.model_validate(upload.fields)).wanted
        started = time.perf_counter()
        answer = await services.query_upload_turns.take(lambda: services.engine.search(upload.stored(), wanted))
        return _response(answer, query=upload.query, wanted=wanted, started=started)


async def _answer(services: Services, query: SearchQuery, wanted: Wanted) -> JSONResponse:
    started = time.perf_counter()
    answer = await anyio.to_thread.run_sync(
        lambda: services.engine.search(query, wanted), limiter=services.search_threads
    )
    return _response(answer, query=query, wanted=wanted, started=started)


def _response(answer: SearchAnswer, *, query: SearchQuery, wanted: Wanted, started: float) -> JSONResponse:
    took_ms = 1000 * (time.perf_counter() - started)
    spent = answer.timings.server_timing
    return JSONResponse(
        search_document(answer, query=query, wanted=wanted, took_ms=took_ms),
        headers={"Server-Timing": spent} if spent else None,
    )
