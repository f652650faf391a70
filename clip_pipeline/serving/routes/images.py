"""Single images: where one is and why, removing them, and what they look like."""

from typing import Annotated

import anyio.to_thread
from fastapi import APIRouter, Header, Path, Query, Request
from starlette.responses import JSONResponse, Response

from clip_pipeline.core.errors import PathRefusedError
from clip_pipeline.core.paths import path_to_text
from clip_pipeline.ledger.lookup import ImageHit
from clip_pipeline.ledger.whereabouts import remove_paths, whereabouts
from clip_pipeline.serving.api_models import RemovedImagesModel, WhereaboutsModel
from clip_pipeline.serving.body_models import parsed
from clip_pipeline.serving.documents import Document, whereabouts_document
from clip_pipeline.serving.openapi import body_of, problems
from clip_pipeline.serving.path_checks import PATH_SCHEMA, checked_texts, normal_path
from clip_pipeline.serving.queries import MAX_ID, InvalidFieldError
from clip_pipeline.serving.request_body import read_json
from clip_pipeline.serving.services import OpenServices
from clip_pipeline.serving.submissions import RemoveImagesBody
from clip_pipeline.serving.thumbnails import ThumbnailSide

# An image id names one content for ever. `private`: who may see it is decided here, not in a shared cache.
CACHE_CONTROL = "private, max-age=31536000, immutable"

router = APIRouter(prefix="/api/v1", tags=["images"])


@router.get(
    "/index/images",
    response_model=WhereaboutsModel,
    responses=problems({404: "The path was never registered", 422: "The path is none"}),
)
async def where_is(
    services: OpenServices,
    path: Annotated[
        str,
        Query(description="absolute, as registered", examples=["/data/photos/a.jpg"], json_schema_extra=PATH_SCHEMA),
    ],
) -> JSONResponse:
    """Where one file stands and why: its state, reason, batch, run and release."""
    try:
        known = path_to_text(normal_path(path))
    except PathRefusedError as error:
        raise InvalidFieldError("path", str(error)) from error

    def look() -> Document:
        return whereabouts_document(whereabouts(services.ledger, known), services.ledger, services.store)

    return JSONResponse(await anyio.to_thread.run_sync(look))


@router.delete(
    "/index/images",
    response_model=RemovedImagesModel,
    responses=problems({413: "The body is too large", 415: "The body is not JSON", 422: "The body does not fit"}),
    openapi_extra=body_of(RemoveImagesBody),
)
async def remove_images(services: OpenServices, request: Request) -> JSONResponse:
    """Remove files: gone from search results at once, from the index with the next merge. The files stay on disk."""
    content = await read_json(request, max_bytes=services.settings.max_body_bytes)

    def remove() -> Document:
        body = parsed(lambda: RemoveImagesBody.model_validate_json(content))
        removed, not_found = remove_paths(services.ledger, checked_texts(body.image_paths))
        return {"removed": removed, "not_found": not_found}

    return JSONResponse(await anyio.to_thread.run_sync(remove, limiter=services.write_threads))


@router.get(
    "/images/{image_id}/thumbnail",
    response_class=Response,
    responses={200: {"content": {"image/webp": {"schema": {"type": "string", "format": "binary"}}}},
               304: {"description": "The client has it already"}}
    | problems({404: "No such image is indexed, or its file is away", 422: "Its file cannot be decoded any more"}),
)  # fmt: skip
async def thumbnail(
    services: OpenServices,
    image_id: Annotated[int, Path(ge=1, le=MAX_ID, examples=[17])],
    size: Annotated[ThumbnailSide, Query(description="long side, pixels at most")] = ThumbnailSide.NORMAL,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """A small WebP of an indexed image, upright."""

    def answer() -> Response:
        image = services.thumbnails.image(image_id)
        headers = {"ETag": _etag(image, size), "Cache-Control": CACHE_CONTROL}
        if matches_etag(if_none_match, headers["ETag"]):
            return Response(status_code=304, headers=headers)
        return Response(services.thumbnails.webp(image, size), media_type="image/webp", headers=headers)

    return await anyio.to_thread.run_sync(answer, limiter=services.thumbnail_threads)


def _etag(image: ImageHit, size: ThumbnailSide) -> str:
    return f'"{image.sha256[:32]}-{int(size)}"'


def matches_etag(header: str | None, etag: str) -> bool:
    """Whether an `If-None-Match` header names the tag, weakly compared (RFC 9110, 13.1.2)."""
    if header is None:
        return False
    tags = {part.strip().removeprefix("W/") for part in header.split(",")}
    return etag in tags or "*" in tags
