"""What the search page shows, found in a thread: the results, or why there are none. No web framework here."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from clip_pipeline.core.errors import ClipPipelineError
from clip_pipeline.core.paths import display_path
from clip_pipeline.ledger.lookup import ImageHit, images_by_id, newest_images
from clip_pipeline.serving.documents import release_name
from clip_pipeline.serving.engine import SearchEngine
from clip_pipeline.serving.pages.search_form import SearchFields, SearchForm
from clip_pipeline.serving.problems import problem_of
from clip_pipeline.serving.queries import MAX_K, PathQuery, Query, ScoredHit, SearchAnswer, TextQuery, Wanted
from clip_pipeline.serving.services import Services

RATIO_STEP = 1.06
NARROWEST, WIDEST = -9, 17
"""Ratios of width to height from 0.59 to 2.69 are shown as they are, up to 3 % cut off; of others the middle."""


NEWEST_SHOWN = 24


class State(StrEnum):
    """What the page is about."""

    START = "start"
    FOUND = "found"
    NOTHING = "nothing"
    NO_INDEX = "no-index"
    LOADING = "loading"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class HitView:
    """One result. share: of the best score, 0 to 1; folder, name: its path as people read it."""

    score: float
    share: float
    image: ImageHit
    folder: str
    name: str

    @property
    def shape(self) -> int:
        """The number of its shape in `search.css`: each is `RATIO_STEP` times as wide as the one before."""
        ratio = max(1, self.image.width) / max(1, self.image.height)
        return min(WIDEST, max(NARROWEST, round(math.log(ratio, RATIO_STEP)))) - NARROWEST


@dataclass(frozen=True, slots=True)
class SearchView:
    """A page of results, or, before anything was asked, of the newest images.

    like: the image that others were to be like; upload: the name of the image that was sent; fault: why there is no
    answer, and `status` with it; total: images in the index, told before anything is asked only.
    """

    state: State
    form: SearchForm
    like: HitView | None = None
    upload: str | None = None
    hits: Sequence[HitView] = ()
    took_ms: float = 0.0
    release: str | None = None
    model_name: str | None = None
    total: int = 0
    has_more: bool = False
    fault: str = ""
    status: int = 200


def start_view(services: Services, form: SearchForm) -> SearchView:
    """The page before anything was asked."""
    served = services.engine.served()
    reader = served.releases.current() if served else None
    if reader is None or not reader.release.images:
        return SearchView(State.NO_INDEX, form)
    release, newest = reader.release, newest_images(services.ledger, most=NEWEST_SHOWN)
    return SearchView(
        State.START,
        form,
        hits=[hit_view(ScoredHit(1.0, image), best=1.0) for image in newest],
        release=release_name(release.number),
        model_name=release.model_name,
        total=release.images,
    )


def found_by_words(services: Services, form: SearchForm, fields: SearchFields) -> SearchView:
    """The images that fit the words best. Where the weights are not there yet it says so at once."""
    if _is_loading(services.engine):
        return SearchView(State.LOADING, form, status=503)
    return _found(services, form, fields, query=lambda: TextQuery(fields.q or ""))


def found_by_likeness(services: Services, form: SearchForm, fields: SearchFields) -> SearchView:
    """The images most like the one with the id `like`, itself left out."""
    image = images_by_id(services.ledger, [fields.like or 0]).get(fields.like or 0)
    if image is None:
        fault = f"The index holds no image {fields.like}: it was removed, or never there."
        return SearchView(State.FAULT, form, fault=fault, status=404)
    like = hit_view(ScoredHit(1.0, image), best=1.0)
    return _found(services, form, fields, query=lambda: PathQuery(image.path), like=like)


def found_by_upload(services: Services, form: SearchForm, fields: SearchFields, *, query: Callable[[], Query],
                    filename: str) -> SearchView:  # fmt: skip
    """The images most like the one that was sent; waits for the weights, as the image would have to be sent again."""
    return _found(services, form, fields, query=query, upload=filename)


def hit_view(hit: ScoredHit, *, best: float) -> HitView:
    """One result as it is shown. best: the score of the first one."""
    folder, slash, name = display_path(hit.image.path).rpartition("/")
    share = min(1.0, max(0.0, hit.score / best)) if best > 0 else 0.0
    return HitView(hit.score, share, hit.image, folder + slash, name)


def _found(
    services: Services,
    form: SearchForm,
    fields: SearchFields,
    *,
    query: Callable[[], Query],
    like: HitView | None = None,
    upload: str | None = None,
) -> SearchView:
    wanted, started = fields.wanted, time.perf_counter()
    try:
        answer = services.engine.search(query(), _with_one_more(wanted) if like else wanted)
    except ClipPipelineError as error:
        status = problem_of(error).status_code
        return SearchView(State.FAULT, form, like=like, upload=upload, fault=_sentence(str(error)), status=status)
    hits = [hit for hit in answer.hits if like is None or hit.image.image_id != like.image.image_id][: wanted.k]
    best = hits[0].score if hits else 0.0
    return SearchView(
        _state_of(answer, hits),
        form,
        like=like,
        upload=upload,
        hits=[hit_view(hit, best=best) for hit in hits],
        took_ms=1000 * (time.perf_counter() - started),
        release=None if answer.release is None else release_name(answer.release),
        model_name=answer.model_name,
        has_more=len(hits) == wanted.k and form.more is not None,
    )


def _state_of(answer: SearchAnswer, hits: Sequence[ScoredHit]) -> State:
    if answer.release is None:
        return State.NO_INDEX
    return State.FOUND if hits else State.NOTHING


def _with_one_more(wanted: Wanted) -> Wanted:
    """The image itself is the first result, and is not shown."""
    return Wanted(min(wanted.k + 1, MAX_K), wanted.min_score, wanted.filter)


def _is_loading(engine: SearchEngine) -> bool:
    served = engine.served()
    return served is not None and served.releases.current() is not None and served.slot.state in ("idle", "loading")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
