"""The pages about labels: the label sets, and what the images of the index are called by the one in use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from clip_pipeline.core.errors import NotFoundError, QueryError, StoreError
from clip_pipeline.core.image_labels import ImageLabels
from clip_pipeline.core.label_set import DEFAULT_TEMPLATES, label_lines
from clip_pipeline.ledger.label_sets import (
    create_label_set,
    current_label_set,
    list_label_sets,
    show_label_set,
    use_label_set,
)
from clip_pipeline.serving.documents import release_name
from clip_pipeline.serving.label_set_documents import label_set_document, label_set_line
from clip_pipeline.serving.pages.analysis_view import label_url
from clip_pipeline.serving.pages.charts import Chart, Point, Words, row_chart
from clip_pipeline.serving.pages.site import MAX_FORM_BYTES, posted_form, render
from clip_pipeline.serving.routes.label_sets import MAX_VERSION
from clip_pipeline.serving.services import OpenServices, Services

PAGE = "/ui/labels"
LABELS_DRAWN = 20
LABEL_CHARS = 18
"""As many fit before a bar."""


router = APIRouter(prefix=PAGE, include_in_schema=False)


@dataclass(frozen=True, slots=True)
class LabelSetForm:
    """The fields as a person filled them in."""

    name: str = ""
    labels: str = ""
    templates: str = "\n".join(DEFAULT_TEMPLATES)

    @classmethod
    def of(cls, fields: Mapping[str, str]) -> "LabelSetForm":
        """From the fields of a request; a missing one is empty."""
        return cls(*(fields.get(name, "") for name in ("name", "labels", "templates")))


@router.get("")
async def labels(request: Request, services: OpenServices) -> Response:
    """The label sets, the form that creates one, and how often each label is the best of an image."""
    return await services.in_analysis_thread(lambda: _page(request, services, LabelSetForm()))


@router.post("")
async def create(request: Request, services: OpenServices) -> Response:
    """Create a label set or its next version and show it, or the form again with what is wrong with it."""
    form = LabelSetForm.of(await posted_form(request, max_bytes=MAX_FORM_BYTES, threads=services.analysis_threads))

    def answer() -> Response:
        try:
            created = create_label_set(
                services.ledger,
                form.name.strip(),
                labels=label_lines(form.labels),
                templates=label_lines(form.templates),
            )
        except QueryError as error:
            return _page(request, services, form, fault=str(error), status=422)
        return _see(created.name, created.version)

    return await services.in_analysis_thread(answer)


@router.post("/use")
async def use(request: Request, services: OpenServices) -> Response:
    """Put the version of the form in use."""
    fields = await posted_form(request)
    name, version = fields.get("name", ""), fields.get("version", "")
    if not (version.isascii() and version.isdecimal() and len(version) < 10 and "\0" not in name):
        raise HTTPException(422, "expected a label set and its version; choose one of those listed")
    await services.in_analysis_thread(lambda: use_label_set(services.ledger, name, version=int(version)))
    return RedirectResponse(PAGE, 303)


@router.get("/{name}")
async def label_set(
    request: Request,
    services: OpenServices,
    name: str,
    version: Annotated[int | None, Query(ge=1, le=MAX_VERSION)] = None,
) -> Response:
    """One version of a label set with all its labels."""
    if "\0" in name:
        raise NotFoundError("no label set has a name with a null character")

    def answer() -> Response:
        current = current_label_set(services.ledger)
        shown = label_set_document(show_label_set(services.ledger, name, version=version), current=current)
        return render(request, "label_set.html", {"shown": shown})

    return await services.in_analysis_thread(answer)


def label_chart(counts: Mapping[str, int], *, release: str) -> Chart:
    """The labels that are the best of most images, each leading to them."""
    note = f"Of how many images of release {release} each label is the best one. It leads to all that have it."
    words = Words("labels", "Most frequent labels", note, "Label")
    most: Sequence[tuple[str, int]] = list(counts.items())[:LABELS_DRAWN]
    return row_chart([Point(_short(label), label, images, label_url(label)) for label, images in most], words)


def _page(request: Request, services: Services, form: LabelSetForm, *, fault: str = "", status: int = 200) -> Response:
    current = current_label_set(services.ledger)
    collection, unreadable = _collection(services)
    chart = None
    if collection is not None:
        chart = label_chart(collection.counts(), release=release_name(collection.seal.release))
    context = {
        "form": form,
        "fault": fault[:1].upper() + fault[1:],
        "in_use": current,
        "sets": [label_set_line(stored, current=current) for stored in list_label_sets(services.ledger)],
        "chart": chart,
        "unreadable": unreadable,
    }
    return render(request, "labels.html", context, status=status)


def _collection(services: Services) -> tuple[ImageLabels | None, str]:
    """The labels of the collection where there are any, and why they cannot be read where that is so."""
    try:
        return services.labels.current()[1], ""
    except StoreError as error:  # label sets are shown all the same
        return None, str(error)


def _short(label: str) -> str:
    return label if len(label) <= LABEL_CHARS else label[: LABEL_CHARS - 1] + "…"


def _see(name: str, version: int) -> Response:
    return RedirectResponse(f"{PAGE}/{quote(name)}?version={version}", 303)
