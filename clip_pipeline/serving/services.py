"""What every route needs, opened once when the application starts and closed when it stops."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, TypeAlias

import anyio
from fastapi import Depends, Request

from clip_pipeline.core.store import Store
from clip_pipeline.ledger.database import Ledger, open_ledger
from clip_pipeline.serving.encoder_slot import LoadEncoder, encoder_loader
from clip_pipeline.serving.engine import SearchEngine
from clip_pipeline.serving.keys import KeyRing
from clip_pipeline.serving.orchestrator import Orchestrator, local_orchestrator
from clip_pipeline.serving.pages.pictures import Pictures
from clip_pipeline.serving.query_images import QueryImages
from clip_pipeline.serving.registrar import Registrar
from clip_pipeline.serving.sessions import Sessions, open_sessions
from clip_pipeline.serving.thumbnails import Thumbnails
from clip_pipeline.settings import Settings

SEARCH_THREADS = 32
"""Searches have threads of their own: those that wait for weights to load must not keep `/health` waiting. As many as
clients may reasonably ask at once: texts are encoded together only where all of them wait for the encoder."""

THUMBNAIL_THREADS = 4
WRITE_THREADS = 4
"""Writers of the ledger queue anyway; four may read and check paths meanwhile."""


@dataclass(frozen=True, slots=True)
class Services:
    """Everything open that routes use."""

    settings: Settings
    store: Store
    ledger: Ledger
    orchestrator: Orchestrator
    engine: SearchEngine
    search_threads: anyio.CapacityLimiter
    keys: KeyRing
    thumbnails: Thumbnails
    thumbnail_threads: anyio.CapacityLimiter
    write_threads: anyio.CapacityLimiter
    registrar: Registrar
    pictures: Pictures
    sessions: Sessions


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
    load = load or encoder_loader(settings.home_path / "cache")
    engine = SearchEngine(settings.store, ledger, load=load, images=QueryImages(settings.image_limits))
    thumbnails = Thumbnails(settings.store, ledger, settings.image_limits)
    write_threads = anyio.CapacityLimiter(WRITE_THREADS)
    registrar = Registrar(ledger, settings, write_threads)
    try:
        engine.start()
        search_threads = anyio.CapacityLimiter(SEARCH_THREADS)
        yield Services(
            settings, settings.store, ledger, orchestrator, engine, search_threads, keys, thumbnails,
            anyio.CapacityLimiter(THUMBNAIL_THREADS), write_threads, registrar,
            Pictures(ledger, engine), open_sessions(settings),
        )  # fmt: skip
    finally:
        registrar.close()
        engine.close()
        thumbnails.close()
        orchestrator.close()
        keys.close()
        ledger.close()


def _services_of(request: Request) -> Services:
    return request.app.state.services


OpenServices: TypeAlias = Annotated[Services, Depends(_services_of)]
"""The type of a route's parameter that receives the services."""
