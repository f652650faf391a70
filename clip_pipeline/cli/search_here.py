"""A search answered in this process, for a home where no service runs."""

import time
from pathlib import Path

from clip_pipeline.cli.configuration import existing_ledger
from clip_pipeline.core.paths import display_path, path_to_text
from clip_pipeline.serving.documents import Document, search_document
from clip_pipeline.serving.encoder_slot import encoder_loader
from clip_pipeline.serving.engine import SearchEngine
from clip_pipeline.serving.queries import Query, TextQuery, UploadQuery, Wanted
from clip_pipeline.serving.query_images import QueryImages
from clip_pipeline.settings import Settings


def answer_here(settings: Settings, text: str | None, *, image: Path | None, k: int) -> Document:
    """The search document that the service would give. Loads the encoder, which takes seconds."""
    query: Query = TextQuery(text or "")
    if image is not None:
        query = UploadQuery(image, display_path(path_to_text(image.name)))
    wanted = Wanted(k)
    with existing_ledger(settings) as ledger:
        load = encoder_loader(settings.home_path / "cache", backend=settings.backend)
        engine = SearchEngine(settings.store, ledger, load=load, images=QueryImages(settings.image_limits))
        try:
            started = time.perf_counter()
            answer = engine.search(query, wanted)
            took_ms = 1000 * (time.perf_counter() - started)
        finally:
            engine.close()
    return search_document(answer, query=query, wanted=wanted, took_ms=took_ms)
