"""`clip-pipeline index`: files and folders become one job; `--wait` follows it to its end."""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from clip_pipeline.cli.configuration import load_settings, opened_ledger, prepare_home
from clip_pipeline.cli.output import console, count, error_console, print_json, progress_bars, shown
from clip_pipeline.cli.stack.state import dagster_url, running_stack
from clip_pipeline.cli.status_command import Document, print_job
from clip_pipeline.core.errors import ClipPipelineError, NotFoundError, StackError
from clip_pipeline.core.paths import path_to_text
from clip_pipeline.core.scan import Walk
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.registration import MISSING_SIZE, FileFacts, Registration, Submission, register_files
from clip_pipeline.serving.documents import status_document
from clip_pipeline.serving.lifecycle import JobStatus
from clip_pipeline.serving.orchestrator import Orchestrator
from clip_pipeline.settings import Settings

LOOK_EVERY_S = 1.0
FINAL = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELED})


def index(paths: Sequence[Path], *, wait: bool, priority: int, as_json: bool) -> None:
    """Register what the paths name; wait for the job where asked to."""
    settings = load_settings()
    named = [_existing(path) for path in paths]
    prepare_home(settings)
    with opened_ledger(settings) as ledger:
        if as_json:
            registered = _register(ledger, settings, named, priority=priority)
        else:
            with error_console().status("Looking for files and registering them"):
                registered = _register(ledger, settings, named, priority=priority)
        if not wait:
            print_json(_document(registered)) if as_json else _print(registered, settings)
            return
        if not as_json:
            _print(registered, settings)
        document = _follow(ledger, settings, registered.job_id)
    _print_end(document, as_json=as_json)


def facts_of(named: Sequence[Path], settings: Settings, unreadable: list[str]) -> Iterator[FileFacts]:
    """Size and time of every file that the paths name, those in folders included; collects folders it cannot list."""
    for path in named:
        if path.is_dir():
            roots = [*settings.root_folders, path]
            walk = Walk(path, settings.ignore_patterns, roots, unreadable)
            yield from (FileFacts(seen.path, seen.size_bytes, seen.mtime_ns) for seen in walk.files())
        else:
            yield _facts(path)


def _register(ledger: Ledger, settings: Settings, named: Sequence[Path], *, priority: int) -> Registration:
    unreadable: list[str] = []
    facts = facts_of(named, settings, unreadable)
    registered = register_files(ledger, facts, submission=Submission("cli", priority))
    for folder in unreadable:
        error_console().print(f"warning: the folder {shown(folder)} cannot be read; what is in it was left out")
    return registered


def _facts(path: Path) -> FileFacts:
    try:
        found = path.stat()
    except OSError:  # vanished since it was named: it fails with that reason, in the job
        return FileFacts(path_to_text(path), MISSING_SIZE, 0)
    return FileFacts(path_to_text(path), found.st_size, found.st_mtime_ns)


def _existing(path: Path) -> Path:
    absolute = Path(os.path.abspath(path.expanduser()))
    if not os.path.lexists(absolute):
        raise NotFoundError(f"{shown(path_to_text(absolute))} does not exist; nothing was registered")
    return absolute


def _document(registered: Registration) -> Document:
    """The answer of `POST /api/v1/index/add-images`."""
    return {
        "job_id": registered.job_id,
        "status": JobStatus.QUEUED if registered.new_images_count or registered.pending_count else JobStatus.COMPLETED,
        "images_count": registered.images_count,
        "new_images_count": registered.new_images_count,
        "already_indexed_count": registered.already_indexed_count,
        "message": _message(registered),
    }


def _message(registered: Registration) -> str:
    if not registered.images_count:
        return "There is no file to index"
    if not registered.new_images_count:
        return "All files are known already"
    return f"Queued {count(registered.new_images_count, 'new image')} for indexing"


def _print(registered: Registration, settings: Settings) -> None:
    known = registered.already_indexed_count
    console().print(f"{_message(registered)}; {count(known, 'file')} known and unchanged. Job {registered.job_id}")
    if registered.new_images_count and running_stack(settings.home_path) is None:
        console().print("No stack runs in this home: the job waits for `clip-pipeline up`.")


def _follow(ledger: Ledger, settings: Settings, job_id: str) -> Document:
    """The status document of the job once it is final; progress is shown meanwhile."""
    orchestrator = Orchestrator(dagster_url(settings))
    try:
        with progress_bars(error_console(), transient=False) as progress:
            task = progress.add_task("indexing", total=None)
            while True:
                document = status_document(ledger, orchestrator, job_id)
                counts: Document = document["progress"]  # type: ignore[assignment]
                progress.update(task, total=counts["total_images"], completed=counts["processed_images"])
                if document["status"] in FINAL:
                    return document
                _check_someone_works(settings, orchestrator, job_id)
                time.sleep(LOOK_EVERY_S)
    finally:
        orchestrator.close()


def _check_someone_works(settings: Settings, orchestrator: Orchestrator, job_id: str) -> None:
    if running_stack(settings.home_path) is not None:
        return
    try:
        orchestrator.daemon_fault()
    except StackError:
        raise StackError(
            f"job {job_id} is registered, but no stack of {settings.home_path} runs that could do it; start it with "
            "`clip-pipeline up`"
        ) from None


def _print_end(document: Document, *, as_json: bool) -> None:
    if as_json:
        print_json(document)
    elif document["status"] != JobStatus.COMPLETED or document["failed"]:
        print_job(document)
    else:
        console().print("Done.")
    if document["status"] != JobStatus.COMPLETED:
        why = document["error_message"] or "somebody canceled it"
        raise ClipPipelineError(f"job {document['job_id']} {document['status']}: {why}")
