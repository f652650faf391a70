"""Analysis requests come and go: submitted once whatever is repeated, deleted with what only they needed.

An upload lies in the store by its content, so several requests may share one. Whoever submits puts the file there
first and looks again after, since `forget_upload` may have removed it between; nobody else removes uploads.
"""

import json
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, fields

from sqlalchemy import Connection, delete, insert, or_, select
from sqlalchemy import text as sql_text

from clip_pipeline.core.errors import ConflictError, NotFoundError, QueryError
from clip_pipeline.ledger.database import Ledger, insert_if_new, utc_now
from clip_pipeline.ledger.schema import analysis_requests, upload_vectors
from clip_pipeline.ledger.states import FINAL_ANALYSES, AnalysisState

_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_UPLOAD_LOCK = 0x636C7570  # the ASCII of "clup"
_NEW = insert(analysis_requests)


@dataclass(frozen=True, slots=True)
class NewAnalysis:
    """An upload, by its content, and what is asked of it.

    source: api, cli, kafka or page. labels: None for those of the named label set. top_k: None for all labels.
    """

    source: str
    sha256: str
    filename: str
    format: str
    width: int
    height: int
    size_bytes: int
    labels: tuple[str, ...] | None = None
    label_set: str | None = None
    label_set_version: int | None = None
    top_k: int | None = None


@dataclass(frozen=True, slots=True)
class ExpiredAnalysis:
    """A finished request that is old enough to go, and the upload that it refers to."""

    request_id: str
    sha256: str


def submit_analysis(ledger: Ledger, new: NewAnalysis, *, request_id: str | None = None) -> str:
    """The id of the request, which is durable when this returns; a random one unless `request_id` names it.

    The same id with the same upload, labels and top_k is the same request, even where another label set is in use
    by now.

    Raises:
        QueryError: the id cannot be used.
        ConflictError: the id is that of another request.
    """
    if request_id is not None and not can_be_request_id(request_id):
        raise QueryError(
            "expected a request id of 1 to 128 letters, digits, dots, colons, dashes and underscores that starts with "
            f"a letter or digit, got {request_id[:40]!a}"
        )
    with ledger.write_rows() as connection:
        lock_upload(connection, new.sha256)
        if request_id is None:
            # The way of nearly all uploads. SQLAlchemy compiles an INSERT with ON CONFLICT anew each time: 1 ms.
            chosen = str(uuid.uuid4())
            connection.execute(_NEW, _row(new, chosen))
            return chosen
        # The one that has this id may be deleted before it is looked at.
        while not _insert(connection, new, request_id) and not _is_there(connection, new, request_id=request_id):
            pass
    return request_id


def can_be_request_id(text: str) -> bool:
    """Whether a request may have this id: 1 to 128 characters that every address and database can hold."""
    return _REQUEST_ID.fullmatch(text) is not None


def unknown_analysis(request_id: str) -> NotFoundError:
    """The error for an id that no request has."""
    return NotFoundError(f"no analysis request {request_id[:128]!a}; it was never submitted, or it was removed since")


def delete_analysis(ledger: Ledger, request_id: str) -> str:
    """Delete one request, whatever its state. Returns its upload's sha256, for `forget_upload`.

    A run that works on it finds no lease when it is done, and its result is dropped.

    Raises:
        NotFoundError: no request has this id.
    """
    if not can_be_request_id(request_id):
        raise unknown_analysis(request_id)
    this = analysis_requests.c.request_id == request_id
    with ledger.write_rows() as connection:
        deleted = connection.execute(delete(analysis_requests).where(this).returning(analysis_requests.c.sha256))
        sha256 = deleted.scalar()
    if sha256 is None:
        raise unknown_analysis(request_id)
    return sha256


def expired_analyses(ledger: Ledger, older_than: str, *, most: int) -> list[ExpiredAnalysis]:
    """The first requests that ended before a moment, oldest first, but those whose result Kafka still awaits."""
    told = or_(analysis_requests.c.source != "kafka", analysis_requests.c.delivered_at.is_not(None))
    query = (
        select(analysis_requests.c.request_id, analysis_requests.c.sha256)
        .where(analysis_requests.c.updated_at < older_than, analysis_requests.c.state.in_(FINAL_ANALYSES), told)
        .order_by(analysis_requests.c.updated_at, analysis_requests.c.seq)
        .limit(most)
    )
    with ledger.read() as connection:
        return [ExpiredAnalysis(*row) for row in connection.execute(query).tuples()]


def upload_is_needed(ledger: Ledger, sha256: str) -> bool:
    """Whether a request, finished or not, refers to this upload."""
    with ledger.read() as connection:
        return _is_needed(connection, sha256)


def forget_upload(ledger: Ledger, sha256: str, *, remove: Callable[[], object]) -> bool:
    """Remove an upload, with its vectors, unless a request refers to it. Returns whether it was removed.

    `remove` deletes the file. It is called while no request for this content can be submitted, so one that is
    submitted at the same time either keeps the file or finds, after its submission, that the file is gone.
    """
    with ledger.write_rows() as connection:
        lock_upload(connection, sha256)
        if _is_needed(connection, sha256):
            return False
        connection.execute(delete(upload_vectors).where(upload_vectors.c.sha256 == sha256))
        remove()
    return True


def lock_upload(connection: Connection, sha256: str) -> None:
    """Until the transaction ends, nobody else submits or forgets this content; SQLite has one writer anyway."""
    if connection.dialect.name == "postgresql":
        key = int(sha256[:8], 16) - 2**31
        connection.execute(sql_text("SELECT pg_advisory_xact_lock(:kind, :key)"), {"kind": _UPLOAD_LOCK, "key": key})


_ASKED = tuple(field.name for field in fields(NewAnalysis))


def _row(new: NewAnalysis, request_id: str) -> dict[str, object]:
    now = utc_now()
    return {
        **{name: getattr(new, name) for name in _ASKED}, "labels": _labels_json(new),
        "request_id": request_id, "state": AnalysisState.SUBMITTED,
        "submitted_at": now, "updated_at": now,
    }  # fmt: skip


def _labels_json(new: NewAnalysis) -> str | None:
    return None if new.labels is None else json.dumps(new.labels, ensure_ascii=False)


def _insert(connection: Connection, new: NewAnalysis, request_id: str) -> bool:
    created = connection.execute(insert_if_new(connection, analysis_requests), _row(new, request_id))
    return created.rowcount > 0


def _is_there(connection: Connection, new: NewAnalysis, *, request_id: str) -> bool:
    """Whether the same request is there already; raises ConflictError where another has its id."""
    query = select(analysis_requests).where(analysis_requests.c.request_id == request_id)
    row = connection.execute(query).one_or_none()
    if row is None:
        return False
    if (row.sha256, row.labels, row.top_k) != (new.sha256, _labels_json(new), new.top_k):
        raise ConflictError(
            f"request id {request_id!r} is that of another upload, or of other labels or another top_k; send the same "
            "request again, or choose another id"
        )
    return True


def _is_needed(connection: Connection, sha256: str) -> bool:
    referring = select(analysis_requests.c.seq).where(analysis_requests.c.sha256 == sha256).limit(1)
    return connection.execute(referring).first() is not None
