"""What every route needs, opened once when the application starts and closed when it stops."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Annotated, TypeAlias, TypeVar

import anyio
import anyio.to_thread
from fastapi import Depends, Request

from clip_pipeline.core.store import Store
from clip_pipeline.ledger.database import Ledger, open_ledger
from clip_pipeline.observability.metrics import Measures
from clip_pipeline.serving.collection_labels import CollectionLabels
from clip_pipeline.serving.encoder_slot import LoadEncoder, encoder_loader
from clip_pipeline.serving.engine import SearchEngine
from clip_pipeline.serving.keys import KeyRing
from clip_pipeline.serving.measured_encoder import measured
from clip_pipeline.serving.orchestrator import Orchestrator, local_orchestrator
from clip_pipeline.serving.pages.pictures import Pictures
from clip_pipeline.serving.query_images import QueryImages
from clip_pipeline.serving.registrar import Registrar
from clip_pipeline.serving.sessions import Sessions, open_sessions
from clip_pipeline.serving.thumbnails import Thumbnails
from clip_pipeline.serving.turns import Turns
from clip_pipeline.serving.uploads import Uploads
from clip_pipeline.settings import Settings

SEARCH_THREADS = 32
"""Searches have threads of their own: those that wait for weights to load must not keep `/health` waiting. As many as
clients may reasonably ask at once: texts are encoded together only where all of them wait for the encoder."""

QUERY_UPLOAD_THREADS = 4
"""One process decodes; the others that have a thread are written to disk, encoded or searched with meanwhile. Not
those of other searches: an image that takes its decoder seconds must not keep words waiting."""

THUMBNAIL_THREADS = 4
WRITE_THREADS = 4
"""Writers of the ledger queue anyway; four may read and check paths meanwhile."""

UPLOAD_THREADS = 8
"""Each waits for the disk most of the time: to flush an image, then to commit its request."""

ANALYSIS_THREADS = 8

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Services:
    """Everything open that routes use."""

    settings: Settings
    store: Store
    ledger: Ledger
    orchestrator: Orchestrator
    engine: SearchEngine
    search_threads: anyio.CapacityLimiter
    query_upload_turns: Turns
    keys: KeyRing
    thumbnails: Thumbnails
    thumbnail_threads: anyio.CapacityLimiter
    write_threads: anyio.CapacityLimiter
    registrar: Registrar
    pictures: Pictures
    sessions: Sessions
    labels: CollectionLabels
    uploads: Uploads
    upload_turns: Turns
    analysis_threads: anyio.CapacityLimiter
    measures: Measures

    async def in_write_thread(self, work: Callable[[], Value]) -> Value:
        """What `work` returns, run in one of the few threads that write to the ledger."""
        return await anyio.to_thread.run_sync(work, limiter=self.write_threads)

    async def in_analysis_thread(self, work: Callable[[], Value]) -> Value:
        """What `work` returns, run in one of the threads for analysis requests and label sets."""
        return await anyio.to_thread.run_sync(work, limiter=self.analysis_threads)


@contextmanager
def open_services(settings: Settings, *, load: LoadEncoder | None = None) -> Generator[Services, None, None]:
    """The services of one home. `load` makes the encoder; by default the pinned one, with its real weights.

    Raises:
        ConfigurationError: the secret of sessions is too short.
        StoreError: the ledger cannot be opened, or the home can keep no secret.
    """
    ledger = open_ledger(settings.ledger_location)
    orchestrator = local_orchestrator(settings)
    keys = KeyRing(ledger)
    measures = Measures()
    load = measured(load or encoder_loader(settings.home_path / "cache", backend=settings.backend), measures)
    engine = SearchEngine(
        settings.store, ledger, load=load, images=QueryImages(settings.image_limits),
        observe=lambda timings: measures.count_search(asdict(timings)),
    )  # fmt: skip
    thumbnails = Thumbnails(settings.store, ledger, settings.image_limits)
    write_threads = anyio.CapacityLimiter(WRITE_THREADS)
    registrar = Registrar(ledger, settings, write_threads)
    uploads = Uploads(settings.store, ledger, settings.upload_limits)
    try:
        uploads.sweep()
        engine.start()
        search_threads = anyio.CapacityLimiter(SEARCH_THREADS)
        yield Services(
            settings, settings.store, ledger, orchestrator, engine, search_threads,
            Turns(QUERY_UPLOAD_THREADS), keys, thumbnails,
            anyio.CapacityLimiter(THUMBNAIL_THREADS), write_threads, registrar,
            Pictures(ledger, engine), open_sessions(settings), engine.labels, uploads,
            Turns(UPLOAD_THREADS), anyio.CapacityLimiter(ANALYSIS_THREADS), measures,
        )  # fmt: skip
    finally:
        uploads.close()
        registrar.close()
        engine.close()
        thumbnails.close()
        orchestrator.close()
        keys.close()
        ledger.close()


async def _services_of(request: Request) -> Services:  # a plain function would be called in a thread
    return request.app.state.services


OpenServices: TypeAlias = Annotated[Services, Depends(_services_of)]
"""The type of a route's parameter that receives the services."""
