"""Search by text, by an indexed image, by a vector, or by an uploaded image."""

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import anyio.to_thread
from fastapi import APIRouter, Query, Request
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from clip_pipeline.serving.api_models import SearchModel
from clip_pipeline.serving.documents import search_document
from clip_pipeline.serving.openapi import body_of, problems
from clip_pipeline.serving.queries import (
    MAX_K,
    InvalidFieldError,
    SearchAnswer,
    SearchBody,
    TextFields,
    TextQuery,
    UploadFields,
    UploadQuery,
    Wanted,
)
from clip_pipeline.serving.queries import Query as SearchQuery
from clip_pipeline.serving.request_body import limited, parsed, read_body
from clip_pipeline.serving.services import OpenServices, Services

MAX_JSON_BYTES = 1024**2
FORM_OVERHEAD_BYTES = 64 * 1024

router = APIRouter(prefix="/api/v1/search", tags=["search"])

_UPLOAD = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "k": {"type": "integer", "minimum": 1, "maximum": MAX_K},
        "min_score": {"type": "number"},
        "filter": {"type": "string", "contentMediaType": "application/json", "description": "a FilterFields object"},
    },
}
_BODIES = body_of(SearchBody)
_BODIES["requestBody"]["content"]["multipart/form-data"] = {"schema": _UPLOAD}
_PROBLEMS = problems({422: "A field does not fit", 503: "The encoder or the index cannot be used now"})


@router.get("", response_model=SearchModel, responses=_PROBLEMS)
async def search_by_text(services: OpenServices, fields: Annotated[TextFields, Query()]) -> JSONResponse:
    """The k images that fit the text `q` best, among those that fit the filter."""
    query, wanted = TextQuery(fields.q), fields.wanted
    return await _answer(services, query, wanted, find=lambda: services.engine.search(query, wanted))


@router.post(
    "",
    response_model=SearchModel,
    responses=_PROBLEMS
    | problems({404: "The index holds no image at this path", 409: "The vector is of another encoder",
                413: "The body is too large", 415: "Not a body or an image that can be used"}),
    openapi_extra=_BODIES,
)  # fmt: skip
async def search_by_example(services: OpenServices, request: Request) -> JSONResponse:
    """The images that fit best: multipart `file`, or JSON with one of `text`, `image_path` and `vector`."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _search_by_upload(services, request)
    if kind != "application/json":
        raise HTTPException(415, f"expected application/json or multipart/form-data, got {kind or 'no content type'}")
    content = await read_body(request, max_bytes=MAX_JSON_BYTES)
    body = parsed(lambda: SearchBody.model_validate_json(content))
    return await _answer(
        services, body.query, body.wanted, find=lambda: services.engine.search(body.query, body.wanted)
    )


async def _search_by_upload(services: Services, request: Request) -> JSONResponse:
    max_bytes = services.settings.max_image_bytes + FORM_OVERHEAD_BYTES
    async with limited(request, max_bytes=max_bytes).form(max_files=1, max_fields=8) as form:
        upload, fields = _upload_of(form)
        wanted = parsed(lambda: UploadFields.model_validate(fields)).wanted
        with tempfile.NamedTemporaryFile(prefix="clip-query-") as copy:
            query = UploadQuery(Path(copy.name), upload.filename)

            def find() -> SearchAnswer:
                shutil.copyfileobj(upload.file, copy)
                copy.flush()
                return services.engine.search(query, wanted)

            return await _answer(services, query, wanted, find=find)


async def _answer(
    services: Services, query: SearchQuery, wanted: Wanted, *, find: Callable[[], SearchAnswer]
) -> JSONResponse:
    started = time.perf_counter()
    answer = await anyio.to_thread.run_sync(find, limiter=services.search_threads)
    took_ms = 1000 * (time.perf_counter() - started)
    return JSONResponse(search_document(answer, query=query, wanted=wanted, took_ms=took_ms))


def _upload_of(form: FormData) -> tuple[UploadFile, dict[str, str]]:
    """The file of a search form, and its other fields."""
    upload = form.get("file")
    if not isinstance(upload, UploadFile):
        raise InvalidFieldError("file", "expected an image file in the form field `file`")
    return upload, {name: value for name, value in form.items() if isinstance(value, str)}
