"""Submitting images, trying failed ones again, canceling and removing: what the routes do in a thread.

No web framework here. Bodies are parsed in the thread too: a hundred thousand paths take longer than a request may
hold the event loop.
"""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from clip_pipeline.core.paths import text_to_path
from clip_pipeline.core.scan import Walk
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.jobs import failed_paths_of_job
from clip_pipeline.ledger.registration import (
    FileFacts,
    Registration,
    Submission,
    register_files,
    repeated_submission,
)
from clip_pipeline.serving.path_checks import AllowedRoots, Refusals, checked_files, checked_folders
from clip_pipeline.serving.queries import InvalidFieldError
from clip_pipeline.settings import Settings

MAX_PATHS = 100_000
MAX_FOLDERS = 1_000
MAX_EXPANDED = 1_000_000
MAX_PRIORITY = 1_000_000
MAX_KEY_CHARS = 255

PathList = Annotated[list[str], Field(max_length=MAX_PATHS)]


class AddImagesBody(BaseModel):
    """The body of `POST /api/v1/index/add-images`."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"image_paths": ["/data/photos/a.jpg", "/data/photos/b.png"], "priority": 5}]},
    )

    image_paths: PathList = Field(default=[], description="1 to 100,000 absolute paths below the configured roots")
    priority: Annotated[int, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] = Field(
        default=0, description="higher is worked on first"
    )
    recursive_dirs: Annotated[list[str], Field(max_length=MAX_FOLDERS)] = Field(
        default=[], description="folders whose files, at any depth, are submitted too"
    )

    @model_validator(mode="after")
    def _something(self) -> "AddImagesBody":
        if not self.image_paths and not self.recursive_dirs:
            raise ValueError(f"expected 1 to {MAX_PATHS} paths in image_paths, or folders in recursive_dirs, got none")
        return self

    @property
    def digest(self) -> str:
        """What two requests must share to be the same one: every field, however the JSON was written."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


class RemoveImagesBody(BaseModel):
    """The body of `DELETE /api/v1/index/images`."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"image_paths": ["/data/photos/a.jpg"]}]})

    image_paths: Annotated[list[str], Field(min_length=1, max_length=MAX_PATHS)]


def submit(
    ledger: Ledger, settings: Settings, body: AddImagesBody, *, idempotency_key: str | None = None
) -> Registration:
    """Check every path, then register all of them as one job.

    Raises:
        RefusedPathsError: a path is refused; nothing is registered.
        ConflictError: the idempotency key was used for another request.
    """
    submission = Submission("api", body.priority, idempotency_key, body.digest)
    repeated = repeated_submission(ledger, submission)
    if repeated is not None:
        return repeated
    roots, refusals = AllowedRoots(settings.root_folders), Refusals()
    named = checked_files(body.image_paths, roots, refusals)
    folders = checked_folders(body.recursive_dirs, roots, refusals)
    refusals.raise_any()
    # Of a file named twice the later facts count; those of one request differ only while the file is written to.
    return register_files(ledger, itertools.chain(named, _files_below(folders, settings)), submission=submission)


def retry(ledger: Ledger, job_id: str) -> Registration:
    """Register the failed images of one job, and nothing else, as a new job; an empty one where none failed.

    Raises:
        NotFoundError: no job has this id.
    """
    priority, failed = failed_paths_of_job(ledger, job_id)
    # Wherever they lie: they were let in when they were registered, and roots may have changed since.
    anywhere = AllowedRoots((Path("/"),))
    facts = (anywhere.facts(text_to_path(path)) for path in failed)
    return register_files(
        ledger, (f for f in facts if isinstance(f, FileFacts)), submission=Submission("api", priority)
    )


def checked_key(key: str | None) -> str | None:
    """An `Idempotency-Key` header as it is stored; None where there is none.

    Raises:
        InvalidFieldError: it is empty, too long, or not printable ASCII.
    """
    if key is None:
        return None
    if not 1 <= len(key) <= MAX_KEY_CHARS or not (key.isascii() and key.isprintable()) or not key.strip():
        raise InvalidFieldError("Idempotency-Key", f"expected 1 to {MAX_KEY_CHARS} printable ASCII characters")
    return key


def _files_below(folders: Sequence[str], settings: Settings) -> Iterator[FileFacts]:
    count = 0
    for folder in folders:
        for seen in Walk(Path(folder), settings.ignore_patterns, settings.root_folders).files():
            count += 1
            if count > MAX_EXPANDED:
                raise InvalidFieldError(
                    "recursive_dirs",
                    f"more than {MAX_EXPANDED} files below these folders; submit their subfolders one by one, or let "
                    "CLIP_PIPELINE_WATCH watch them",
                )
            yield FileFacts(seen.path, seen.size_bytes, seen.mtime_ns)
