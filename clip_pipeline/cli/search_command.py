"""`clip-pipeline search`: asks the running service, or, where none runs, answers in this process."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clip_pipeline.cli.configuration import load_settings
from clip_pipeline.cli.output import console, error_console, print_json, print_table, shown
from clip_pipeline.cli.service_client import Document, ServiceClient
from clip_pipeline.cli.stack.state import service_url
from clip_pipeline.core.errors import QueryError

BAR_CELLS = 20


def search(text: str | None, *, image: Path | None, k: int, as_json: bool) -> None:
    """Print the best images for one query."""
    if (text is None) == (image is None):
        raise QueryError(
            'give either a text, as in `search "a red bicycle"`, or an example, as in `search --image FILE`'
        )
    if image is not None:
        image = checked_image(image)
    settings = load_settings()
    url = service_url(settings.home_path)
    if url is not None:
        document = _ask_service(ServiceClient(url, api_key=settings.api_key), text, image=image, k=k)
    else:
        # Imports FAISS; a running service has that behind it.
        from clip_pipeline.cli.search_here import answer_here  # noqa: PLC0415

        error_console().print(
            "No search API runs in this home: loading the encoder. `clip-pipeline up` keeps it ready."
        )
        document = answer_here(settings, text, image=image, k=k)
    if as_json:
        print_json(document)
    else:
        print_hits(document)


def print_hits(document: Document, *, title: str = "", below: str = "") -> None:
    """The results of a search document as a table; paths relative to the folder `below` where they lie in it."""
    results: Sequence[dict[str, Any]] = document["results"]
    if not results:
        empty = "The index is empty still." if document["index_release"] is None else "Nothing was found."
        console().print(f"{title}  {empty}".strip())
        return
    best = max(float(results[0]["score"]), 1e-6)
    rows = [
        (hit["rank"], f"{hit['score']:.3f}", bar(float(hit["score"]) / best), _place(hit, below)) for hit in results
    ]
    print_table(title, ["#", "score", "", "image"], rows, right=2)


def bar(share: float) -> str:
    """A horizontal bar of up to `BAR_CELLS` characters for a share of 0 to 1."""
    eighths = round(max(0.0, min(1.0, share)) * BAR_CELLS * 8)
    return "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]


def checked_image(image: Path) -> Path:
    """The absolute path of a query image. Raises QueryError where there is no such file."""
    path = Path(os.path.abspath(image.expanduser()))
    if not path.is_file():
        raise QueryError(f"the query image {path} does not exist or is no file; name an image file")
    return path


def _ask_service(service: ServiceClient, text: str | None, *, image: Path | None, k: int) -> Document:
    with service as client:
        if image is not None:
            return client.search_upload(image, k=k)
        return client.search_text(text or "", k=k)


def _place(hit: dict[str, Any], below: str) -> str:
    path = str(hit["path"])
    prefix = below.rstrip("/") + "/"
    name = shown(path.removeprefix(prefix) if below else path)
    copies = len(hit.get("duplicates", ()))
    return f"{name}  (+{copies} duplicate{'' if copies == 1 else 's'})" if copies else name
