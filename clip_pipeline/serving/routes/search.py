"""Search by text, by an indexed image, by a vector, or by an uploaded image."""

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import anyio.to_thread
from fastapi import APIRouter, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from clip_pipeline.serving.documents import search_document
from clip_pipeline.serving.queries import (
    DEFAULT_K,
    InvalidFieldError,
    QueryText,
    ResultCount,
    SearchAnswer,
    SearchBody,
    TextQuery,
    UploadFields,
    UploadQuery,
    Wanted,
)
from clip_pipeline.serving.queries import Query as SearchQuery
from clip_pipeline.serving.request_body import limited, read_body
from clip_pipeline.serving.services import OpenServices, Services

MAX_JSON_BYTES = 1024**2
FORM_OVERHEAD_BYTES = 64 * 1024

router = APIRouter(prefix="/api/v1/search", tags=["search"])
Model = TypeVar("Model", bound=BaseModel)

_BODIES = {
    "application/json": {"schema": SearchBody.model_json_schema()},
    "multipart/form-data": {
        "schema": {"type": "object", "required": ["file"],
                   "properties": {"file": {"type": "string", "format": "binary"}}
                   | UploadFields.model_json_schema()["properties"]}
    },
}  # fmt: skip


@router.get("")
async def search_by_text(
    services: OpenServices, q: Annotated[QueryText, Query()], k: Annotated[ResultCount, Query()] = DEFAULT_K
) -> JSONResponse:
    """The k images that fit the text `q` best."""
    query, wanted = TextQuery(q), Wanted(k)
    return await _answer(services, query, wanted, find=lambda: services.engine.search(query, wanted))


@router.post("", openapi_extra={"requestBody": {"required": True, "content": _BODIES}})
async def search_by_example(services: OpenServices, request: Request) -> JSONResponse:
    """The images that fit best: multipart `file`, or JSON with one of `text`, `image_path` and `vector`."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _search_by_upload(services, request)
    if kind != "application/json":
        raise HTTPException(415, f"expected application/json or multipart/form-data, got {kind or 'no content type'}")
    content = await read_body(request, max_bytes=MAX_JSON_BYTES)
    body = _parsed(lambda: SearchBody.model_validate_json(content))
    return await _answer(
        services, body.query, body.wanted, find=lambda: services.engine.search(body.query, body.wanted)
    )


async def _search_by_upload(services: Services, request: Request) -> JSONResponse:
    max_bytes = services.settings.max_image_bytes + FORM_OVERHEAD_BYTES
    async with limited(request, max_bytes=max_bytes).form(max_files=1, max_fields=8) as form:
        upload, fields = _upload_of(form)
        wanted = _parsed(lambda: UploadFields.model_validate(fields)).wanted
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


def _parsed(parse: Callable[[], Model]) -> Model:
    try:
        return parse()
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error
