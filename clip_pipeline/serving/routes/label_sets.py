"""Label sets: what images may be called. And what those of the index are called by the one in use."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse

from clip_pipeline.core.errors import NotFoundError
from clip_pipeline.core.label_set import DEFAULT_TEMPLATES
from clip_pipeline.ledger.label_sets import (
    create_label_set,
    current_label_set,
    list_label_sets,
    show_label_set,
    use_label_set,
)
from clip_pipeline.serving.analysis_models import CollectionLabelsModel, LabelSetModel, LabelSetsModel
from clip_pipeline.serving.body_models import parsed
from clip_pipeline.serving.documents import Document, release_name
from clip_pipeline.serving.label_set_documents import label_set_document, label_set_line
from clip_pipeline.serving.openapi import body_of, problems
from clip_pipeline.serving.request_body import read_json
from clip_pipeline.serving.services import OpenServices, Services

MAX_JSON_BYTES = 16 * 1024**2
"""5,000 labels of 200 characters, each written as two escaped surrogates."""
MAX_VERSION = 2**31 - 1

Version = Annotated[int, Field(ge=1, le=MAX_VERSION)]
Name = Annotated[str, Path(examples=["everyday"])]

router = APIRouter(prefix="/api/v1", tags=["labels"])


class LabelSetBody(BaseModel):
    """The body of `POST /api/v1/label-sets`."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"name": "animals", "labels": ["cat", "dog", "horse"], "templates": ["a photo of a {}"]}]
        },
    )

    name: str = Field(description="letters, digits, dots, dashes and underscores; a known one gets its next version")
    labels: list[str] = Field(min_length=1, description="1 to 5,000, each of at most 200 characters")
    templates: list[str] = Field(
        default=list(DEFAULT_TEMPLATES), description="sentences with {} where the label goes; their mean counts"
    )


class UseBody(BaseModel):
    """The body of `POST /api/v1/label-sets/{name}/use`."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"version": 2}]})

    version: Version | None = Field(default=None, description="the newest, unless said")


@router.get("/label-sets", response_model=LabelSetsModel)
async def label_sets(services: OpenServices) -> JSONResponse:
    """Every version of every label set, by name, newest first."""

    def answer() -> Document:
        current = current_label_set(services.ledger)
        return {"label_sets": [label_set_line(stored, current=current) for stored in list_label_sets(services.ledger)]}

    return JSONResponse(await services.in_analysis_thread(answer))


@router.post(
    "/label-sets",
    status_code=201,
    response_model=LabelSetModel,
    responses=problems({413: "The body is too large", 415: "The body is not JSON", 422: "A label cannot be used"}),
    openapi_extra=body_of(LabelSetBody),
)
async def create(services: OpenServices, request: Request) -> JSONResponse:
    """Create a label set, or its next version; one with the same labels and templates stays as it is."""
    content = await read_json(request, max_bytes=MAX_JSON_BYTES)

    def answer() -> Document:
        body = parsed(lambda: LabelSetBody.model_validate_json(content))
        created = create_label_set(services.ledger, body.name, labels=body.labels, templates=body.templates)
        return _one(services, created.name, created.version)

    return JSONResponse(await services.in_analysis_thread(answer), 201)


@router.get("/label-sets/{name}", response_model=LabelSetModel, responses=problems({404: "There is no such label set"}))
async def label_set(
    services: OpenServices, name: Name, version: Annotated[Version | None, Query(description="else the newest")] = None
) -> JSONResponse:
    """One version of a label set with its labels."""
    return JSONResponse(await services.in_analysis_thread(lambda: _one(services, _known(name), version)))


@router.post(
    "/label-sets/{name}/use",
    response_model=LabelSetModel,
    responses=problems({404: "There is no such label set", 415: "The body is not JSON"}),
    openapi_extra=body_of(UseBody, required=False),
)
async def use(services: OpenServices, request: Request, name: Name) -> JSONResponse:
    """Put a label set in use: for requests without labels, and for the whole collection, which is labelled anew."""
    headers = request.headers
    is_empty = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
    content = b"{}" if is_empty else await read_json(request, max_bytes=MAX_JSON_BYTES)
    body = parsed(lambda: UseBody.model_validate_json(content))

    def answer() -> Document:
        chosen = use_label_set(services.ledger, _known(name), version=body.version)
        return _one(services, chosen.name, chosen.version)

    return JSONResponse(await services.in_analysis_thread(answer))


@router.get("/labels", response_model=CollectionLabelsModel)
async def collection_labels(services: OpenServices) -> JSONResponse:
    """Of how many indexed images each label of the set in use is the best one, most frequent first."""

    def answer() -> Document:
        in_use, labels = services.labels.current()
        counts = {} if labels is None else labels.counts()
        return {
            "label_set": {"name": in_use.name, "version": in_use.version},
            "index_release": None if labels is None else release_name(labels.seal.release),
            "labelled_images": 0 if labels is None else labels.seal.images,
            "labels": [{"label": label, "images": images} for label, images in counts.items()],
        }

    return JSONResponse(await services.in_analysis_thread(answer))


def _one(services: Services, name: str, version: int | None) -> Document:
    current = current_label_set(services.ledger)
    return label_set_document(show_label_set(services.ledger, name, version=version), current=current)


def _known(name: str) -> str:
    """The name in a path. One with a null character is nobody's, and not every database takes the question."""
    if "\0" in name:
        raise NotFoundError("no label set has a name with a null character")
    return name
