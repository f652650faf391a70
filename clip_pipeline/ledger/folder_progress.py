"""How far the files of one folder have come, and which embeddings were made since a given moment."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from sqlalchemy import ColumnElement, Connection, func, select

from clip_pipeline.core.reasons import Reason
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.jobs import processed_in_runs
from clip_pipeline.ledger.path_index import by_path, path_between
from clip_pipeline.ledger.schema import batches, files, images
from clip_pipeline.ledger.states import PENDING_FILES, VECTOR_IMAGES, FileState

BatchRuns: TypeAlias = Mapping[int, str | None]
"""Number of a batch -> the run that worked on its embeddings last."""


@dataclass(frozen=True, slots=True)
class FolderProgress:
    """The files below a folder, deleted ones left out. states: how many are in each; in_runs: manifested images that
    an embedding run has behind it; given_up: pending files whose batch was given up; error: why, for one of them."""

    states: Mapping[FileState, int]
    in_runs: int
    given_up: int
    error: str | None

    @property
    def registered(self) -> int:
        """All of them."""
        return sum(self.states.values())

    @property
    def pending(self) -> int:
        """Files that work remains to be done for."""
        return sum(self.states[state] for state in PENDING_FILES)

    @property
    def inspected(self) -> int:
        """Files whose content is known, or known to be none."""
        return self.registered - self.states[FileState.REGISTERED]

    @property
    def embedded(self) -> int:
        """Files that have a vector, need none or cannot have one, and those that a run has behind it."""
        return self.inspected - max(0, self.states[FileState.MANIFESTED] - self.in_runs)

    @property
    def finished(self) -> int:
        """Files that are searchable, duplicates, or failed."""
        return self.registered - self.pending


def folder_progress(ledger: Ledger, folder: str) -> FolderProgress:
    """Where the files below `folder` (text form) stand, read in one transaction."""
    below = _below(folder)
    with ledger.read() as connection:
        counted = connection.execute(select(files.c.state, func.count()).where(below).group_by(files.c.state))
        found = dict(counted.tuples().all())
        in_runs = processed_in_runs(connection, below)
        given_up, error = _given_up(connection, below)
    states = {state: int(found.get(state, 0)) for state in FileState if state is not FileState.DELETED}
    return FolderProgress(states, in_runs, given_up, error)


def first_indexed_file(ledger: Ledger, folder: str) -> str | None:
    """The first searchable file below `folder` by path, both in text form."""
    with ledger.read() as connection:
        return connection.execute(
            select(files.c.path)
            .where(_below(folder), files.c.state == FileState.INDEXED)
            .order_by(*by_path(files.c.path))
            .limit(1)
        ).scalar()


def failures_below(ledger: Ledger, folder: str) -> dict[str, int]:
    """How many files below `folder` failed for each reason code, most frequent first."""
    counts: dict[str, int] = {}
    with ledger.read() as connection:
        rows = connection.execute(
            select(files.c.reason, func.count())
            .where(_below(folder), files.c.state == FileState.FAILED)
            .group_by(files.c.reason)
        )
        for reason, number in rows.tuples():
            code = str(Reason.parse(str(reason)).code)
            counts[code] = counts.get(code, 0) + number
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def embedding_runs(ledger: Ledger) -> BatchRuns:
    """For each batch the run that worked on its embeddings last; compare with a later one by `embedded_since`."""
    with ledger.read() as connection:
        return dict(connection.execute(select(batches.c.number, batches.c.run_id)).tuples().all())


def embedded_since(ledger: Ledger, before: BatchRuns) -> int:
    """Images with a vector that was made by a run later than those in `before`."""
    with ledger.read() as connection:
        rows = connection.execute(
            select(batches.c.number, batches.c.run_id, func.count())
            .join(images, images.c.batch == batches.c.number)
            .where(images.c.state.in_(VECTOR_IMAGES), batches.c.embeddings_digest.is_not(None))
            .group_by(batches.c.number, batches.c.run_id)
        )
        return sum(count for number, run_id, count in rows.tuples() if run_id != before.get(number))


def _below(folder: str) -> ColumnElement[bool]:
    prefix = folder.rstrip("/") + "/"
    # The first text after every text with this prefix: "0" follows "/" in ASCII.
    below = path_between(files.c.path, prefix, prefix[:-1] + "0")
    return (files.c.path > prefix) & below & (files.c.state != FileState.DELETED)


def _given_up(connection: Connection, below: ColumnElement[bool]) -> tuple[int, str | None]:
    row = connection.execute(
        select(func.count(), func.max(batches.c.error))
        .select_from(files.join(batches, batches.c.number == files.c.batch))
        .where(below, files.c.state.in_(PENDING_FILES), batches.c.error.is_not(None))
    ).one()
    return int(row[0]), row[1]
