"""Submitting images and trying failed ones again, as plain functions: no web framework here.

They take as long as the disk does, so they run in a thread; a large submission in a process, see `serving.registrar`.
"""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from clip_pipeline.core.scan import Walk
from clip_pipeline.ledger.api_keys import ApiKey
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.jobs import failed_paths_of_job
from clip_pipeline.ledger.registration import (
    FileFacts,
    Registration,
    Submission,
    register_files,
    repeated_submission,
)
from clip_pipeline.serving.path_checks import (
    PATH_SCHEMA,
    AllowedRoots,
    Refusal,
    Refusals,
    checked_files,
    checked_folders,
)
from clip_pipeline.serving.queries import InvalidFieldError
from clip_pipeline.settings import Settings

MAX_PATHS = 100_000
MAX_FOLDERS = 1_000
MAX_EXPANDED = 1_000_000
MAX_PRIORITY = 1_000_000
MAX_KEY_CHARS = 255
UNREADABLE = (
    "the service may not list this folder; make it readable, name it in CLIP_PIPELINE_WATCH_IGNORE, or submit the "
    "folders beside it"
)

PathText = Annotated[str, Field(json_schema_extra=PATH_SCHEMA)]  # held to it one by one: the answer names each
PathList = Annotated[list[PathText], Field(max_length=MAX_PATHS)]


class AddImagesBody(BaseModel):
    """The body of `POST /api/v1/index/add-images`."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"image_paths": ["/data/photos/a.jpg", "/data/photos/b.png"], "priority": 5}]},
    )

    image_paths: PathList = Field(default=[], description="1 to 100,000 absolute paths below the configured roots")
    priority: Annotated[int, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] = Field(
        default=0, description="higher is worked on first"
    )
    recursive_dirs: Annotated[list[PathText], Field(max_length=MAX_FOLDERS)] = Field(
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

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"examples": [{"image_paths": ["/data/photos/a.jpg"]}]}
    )

    image_paths: Annotated[list[PathText], Field(min_length=1, max_length=MAX_PATHS)]


@dataclass(frozen=True, slots=True)
class Retried:
    """A job that tries failed images again. left_out: the first of those that may not be looked at any more."""

    registration: Registration
    left_out: tuple[Refusal, ...] = ()
    left_out_count: int = 0


def submit(
    ledger: Ledger, settings: Settings, body: AddImagesBody, *, idempotency_key: str | None = None
) -> Registration:
    """Check every path, then register all of them as one job.

    Raises:
        RefusedPathsError: a path is refused, or a folder cannot be read; nothing is registered.
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
    found = _files_below(folders, settings, refusals)
    refusals.raise_any()
    # Of a file named twice the later facts count; those of one request differ only while the file is written to.
    return register_files(ledger, itertools.chain(named, found), submission=submission)


def retry(ledger: Ledger, settings: Settings, job_id: str) -> Retried:
    """Register the failed images of one job, and nothing else, as a new job; an empty one where none failed.

    Roots may have changed since the job was registered: what lies outside them now is left out and named.

    Raises:
        NotFoundError: no job has this id.
        RefusedPathsError: all of them would be left out; nothing is registered.
    """
    priority, failed = failed_paths_of_job(ledger, job_id)
    roots, refusals = AllowedRoots(settings.root_folders), Refusals()
    facts = checked_files(failed, roots, refusals)
    if not facts:
        refusals.raise_any()
    registration = register_files(ledger, facts, submission=Submission("api", priority))
    return Retried(registration, tuple(refusals.shown), refusals.total)


def checked_key(key: str | None, *, owner: ApiKey | None) -> str | None:
    """An `Idempotency-Key` header as it is stored; None where there is none.

    owner: the API key that sent it. Clients choose these keys without knowing of each other: those of two API keys are
    never the same one, those of one API key, and of an open service, are.

    Raises:
        InvalidFieldError: it is empty, too long, or not printable ASCII.
    """
    if key is None:
        return None
    if not 1 <= len(key) <= MAX_KEY_CHARS or not (key.isascii() and key.isprintable()) or not key.strip():
        raise InvalidFieldError("Idempotency-Key", f"expected 1 to {MAX_KEY_CHARS} printable ASCII characters")
    return key if owner is None else f"{owner.key_id}:{key}"


def _files_below(folders: Sequence[str], settings: Settings, refusals: Refusals) -> list[FileFacts]:
    """The files below folders; a folder that cannot be listed goes to `refusals`."""
    found: list[FileFacts] = []
    for number, folder in enumerate(folders):
        walk = Walk(Path(folder), settings.ignore_patterns, settings.root_folders)
        for seen in walk.files():
            if len(found) == MAX_EXPANDED:
                raise InvalidFieldError(
                    "recursive_dirs",
                    f"more than {MAX_EXPANDED} files below these folders; submit their subfolders one by one, or let "
                    "CLIP_PIPELINE_WATCH watch them",
                )
            found.append(FileFacts(seen.path, seen.size_bytes, seen.mtime_ns))
        for unreadable in walk.unreadable:
            refusals.add(f"recursive_dirs.{number}", unreadable, UNREADABLE)
    return found
