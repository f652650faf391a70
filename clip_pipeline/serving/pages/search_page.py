"""The search page: by words, by an image of the index, by an image that is sent; and all about one image.

Everything works by links and forms alone; `search.js` asks for the same addresses and shows part of the answer.
"""

from collections.abc import Callable
from typing import Annotated

import anyio.to_thread
from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from clip_pipeline.core.errors import NotFoundError
from clip_pipeline.core.image_header import SUPPORTED_FORMATS
from clip_pipeline.ledger.lookup import images_by_id
from clip_pipeline.ledger.whereabouts import whereabouts
from clip_pipeline.serving.documents import whereabouts_document
from clip_pipeline.serving.pages.analysis_view import ranked_label
from clip_pipeline.serving.pages.search_form import COUNTS, SearchForm
from clip_pipeline.serving.pages.search_view import (
    SearchView,
    State,
    found_by_likeness,
    found_by_upload,
    found_by_words,
    hit_view,
    start_view,
)
from clip_pipeline.serving.pages.site import check_token, render
from clip_pipeline.serving.queries import MAX_ID, ScoredHit
from clip_pipeline.serving.query_uploads import query_upload
from clip_pipeline.serving.services import OpenServices

router = APIRouter(prefix="/ui", include_in_schema=False)


@router.get("/search")
async def search(request: Request, services: OpenServices) -> Response:
    """What fits the words of `q` best, or is most like the image with the id `like`."""
    form = SearchForm.of(request.query_params)

    def view() -> SearchView:
        if form.fields is None:
            return SearchView(State.FAULT, form, fault=_faults_of(form), status=422)
        if form.fields.q is not None:
            return found_by_words(services, form, form.fields)
        if form.fields.like is not None:
            return found_by_likeness(services, form, form.fields)
        return start_view(services, form)

    return await anyio.to_thread.run_sync(lambda: _page(request, view), limiter=services.search_threads)


@router.post("/search")
async def search_by_upload(request: Request, services: OpenServices) -> Response:
    """What is most like the image in the field `file`."""
    async with query_upload(request, services.settings) as upload:
        check_token(request, upload.fields)
        form = SearchForm.of(upload.fields)
        filename = upload.query.filename or "the image"

        def view() -> SearchView:
            if form.fields is None:
                return SearchView(State.FAULT, form, fault=_faults_of(form), status=422)
            return found_by_upload(services, form, form.fields, query=upload.stored, filename=filename)

        return await services.query_upload_turns.take(lambda: _page(request, view))


@router.get("/images/{image_id}")
def image(request: Request, services: OpenServices, image_id: Annotated[int, Path(ge=1, le=MAX_ID)]) -> Response:
    """Where one image of the index is, what it is, and how it came there."""
    found = images_by_id(services.ledger, [image_id]).get(image_id)
    if found is None:
        raise NotFoundError(f"no image {image_id} is indexed")
    facts = whereabouts_document(whereabouts(services.ledger, found.path), services.ledger, services.store)
    run_url = services.orchestrator.run_url(facts["run_id"]) if facts["run_id"] else None
    hit = hit_view(ScoredHit(1.0, found), best=1.0)
    labels = [ranked_label(one) for one in services.labels.best_of([image_id]).get(image_id, ())]
    return render(request, "image.html", {"hit": hit, "facts": facts, "run_url": run_url, "labels": labels})


def _page(request: Request, view: Callable[[], SearchView]) -> Response:
    seen = view()
    context = {"view": seen, "form": seen.form, "formats": SUPPORTED_FORMATS, "counts": COUNTS}
    response = render(request, "search.html", context, status=seen.status)
    if seen.state is State.LOADING:
        response.headers["Retry-After"] = "2"
    return response


def _faults_of(form: SearchForm) -> str:
    return "; ".join(f"{name.replace('_', ' ')}: {fault}" for name, fault in form.faults.items())
