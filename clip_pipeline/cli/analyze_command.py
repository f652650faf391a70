"""`clip-pipeline analyze`: images sent to the running service, their labels shown as they come."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress, TaskID

from clip_pipeline.cli.configuration import load_settings
from clip_pipeline.cli.output import console, count, error_console, print_json, print_table, progress_bars, shown
from clip_pipeline.cli.search_command import bar
from clip_pipeline.cli.service_client import Document, ServiceClient
from clip_pipeline.cli.stack.state import service_url
from clip_pipeline.core.errors import ClipPipelineError, QueryError, StackError
from clip_pipeline.core.paths import path_to_text
from clip_pipeline.settings import Settings

FINAL = frozenset({"completed", "failed"})
SHOWN_WITHOUT_TOP_K = 5
IN_FLIGHT = 64
"""Sent before the first result is waited for: enough to fill the micro-batches of the pipeline."""
WAIT_S = 20.0
"""How long one question waits for its answer; the next one asks again."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of each image; None for what the service does by itself."""

    labels: str | None
    label_set: str | None
    top_k: int | None

    @property
    def fields(self) -> dict[str, str]:
        """As the fields of an upload form."""
        given = {"labels": self.labels, "label_set": self.label_set, "top_k": self.top_k}
        return {name: str(value) for name, value in given.items() if value is not None}


@dataclass(slots=True)
class Asked:
    """One file and how far it is. document: the last answer about it; fault: why there will be no result."""

    path: str
    document: Document | None = None
    fault: str = ""


def analyze(files: Sequence[Path], wanted: Wanted, *, wait: bool, as_json: bool) -> None:
    """Send the files, and, where `wait` says so, print what was found on each."""
    if wanted.labels is not None and wanted.label_set is not None:
        raise QueryError("give either --labels or --label-set, not both")
    settings = load_settings()
    with _service(settings) as service, progress_bars(error_console(), transient=True) as progress:
        task = progress.add_task("analyzing" if wait else "sending", total=len(files))
        asked = _all_asked(service, files, wanted, wait=wait, progress=progress, task=task)
    _print(asked, wanted, as_json=as_json, wait=wait)
    failed = [one for one in asked if one.fault]
    if failed:
        names = "; ".join(f"{shown(one.path)}: {one.fault}" for one in failed)
        raise ClipPipelineError(f"{len(failed)} of {count(len(asked), 'image')} failed: {names}")


@contextmanager
def _service(settings: Settings) -> Iterator[ServiceClient]:
    url = service_url(settings.home_path)
    if url is None:
        raise StackError(f"no service of {settings.home_path} runs; start it with `clip-pipeline up`")
    with ServiceClient(url, api_key=settings.api_key) as client:
        yield client


def _all_asked(
    service: ServiceClient, files: Sequence[Path], wanted: Wanted, *, wait: bool, progress: Progress, task: TaskID
) -> list[Asked]:
    """Each file with its result, in the order given; some of them are under way at a time."""
    asked = list[Asked]()
    waited = 0
    for path in files:
        asked.append(_sent(service, path, wanted))
        if not wait:
            progress.advance(task)
        elif len(asked) - waited >= IN_FLIGHT:
            _finish(service, asked[waited])
            waited += 1
            progress.advance(task)
    for one in asked[waited:] if wait else ():
        _finish(service, one)
        progress.advance(task)
    return asked


def _sent(service: ServiceClient, path: Path, wanted: Wanted) -> Asked:
    asked = Asked(path_to_text(os.fspath(path)))
    try:
        asked.document = service.submit_analysis(path.expanduser(), fields=wanted.fields)
    except QueryError as error:  # of this image; whatever else goes wrong is as wrong for the next one
        asked.fault = str(error)
    return asked


def _finish(service: ServiceClient, asked: Asked) -> None:
    """Wait until the request is at its end."""
    while asked.document is not None and asked.document["status"] not in FINAL:
        begun = time.monotonic()
        asked.document = service.analysis(asked.document["request_id"], wait_s=WAIT_S)
        if asked.document["status"] not in FINAL:
            # A service that is stopping does not wait.
            time.sleep(max(0.0, 0.2 - (time.monotonic() - begun)))
    if asked.document is not None and asked.document["status"] == "failed":
        asked.fault = str(asked.document["error_message"])


def _print(asked: Sequence[Asked], wanted: Wanted, *, as_json: bool, wait: bool) -> None:
    if as_json:
        print_json([{"file": one.path} | (one.document or {"status": "refused", "error_message": one.fault})
                    for one in asked])  # fmt: skip
        return
    for one in asked:
        if one.document is None or one.fault:
            continue
        if wait:
            _print_labels(one.path, one.document, most=wanted.top_k or SHOWN_WITHOUT_TOP_K)
        else:
            console().print(f"{one.document['request_id']}  {shown(one.path)}")


def _print_labels(path: str, document: Document, *, most: int) -> None:
    best = document["predictions"][:most]
    rows = [(f"{100 * one['confidence']:.1f} %", bar(one["confidence"]), one["label"]) for one in best]
    console().print(shown(path))
    print_table("", ("confidence", "", "label"), rows, right=1)
