"""Errors as the wire contract has them: `application/problem+json` (RFC 9457), whatever went wrong.

The one place where an error of `core.errors` becomes an HTTP status.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Match

from clip_pipeline.core.errors import (
    ClipPipelineError,
    ConflictError,
    EncoderUnavailableError,
    FingerprintMismatchError,
    LedgerBusyError,
    NoSpaceError,
    NotFoundError,
    PathRefusedError,
    QueryError,
    StackError,
    StoreError,
)
from clip_pipeline.core.reasons import ReasonCode
from clip_pipeline.serving.body_models import UnfitBodyError
from clip_pipeline.serving.path_checks import RefusedPathsError
from clip_pipeline.serving.queries import InvalidFieldError, UndecodableQueryError
from clip_pipeline.serving.thumbnails import NoThumbnailError

# Most specific first: the first class that fits decides.
_STATUS_OF_ERROR: Sequence[tuple[type[ClipPipelineError], int]] = (
    (QueryError, 422),
    (NotFoundError, 404),
    (FingerprintMismatchError, 409),
    (ConflictError, 409),
    (PathRefusedError, 422),
    (EncoderUnavailableError, 503),
    (StackError, 503),
    (NoSpaceError, 507),
    (StoreError, 503),
)
_STATUS_OF_REASON = {ReasonCode.NOT_AN_IMAGE: 415, ReasonCode.UNSUPPORTED: 415, ReasonCode.TOO_MANY_BYTES: 413}

FAULTS_IN_DETAIL = 10
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
RETRY_AFTER_S = 5
"""Longer than any transaction of this project that was measured, but for a submission of a million paths."""


class Problem(JSONResponse):
    """A problem document. The type is `about:blank`: what the status says is what there is to know of the kind."""

    media_type = "application/problem+json"

    def __init__(
        self, status: int, detail: str, *, headers: Mapping[str, str] | None = None, **members: object
    ) -> None:
        content = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": int(status), "detail": detail}
        super().__init__(content | members, status, headers=headers)


def add_problem_handlers(app: FastAPI) -> None:
    """Answer every error that a route raises, the framework's own included, with a problem document."""
    app.add_exception_handler(ClipPipelineError, _of_own_error)
    app.add_exception_handler(RequestValidationError, _of_invalid_request)
    app.add_exception_handler(HTTPException, _of_http_error)


def _of_own_error(_request: Request, error: Exception) -> Problem:
    assert isinstance(error, ClipPipelineError)
    return problem_of(error)


def problem_of(error: ClipPipelineError) -> Problem:
    """The answer to a request that ended in this error."""
    if isinstance(error, UnfitBodyError):
        return _unfit(error.faults)
    if isinstance(error, InvalidFieldError):
        return Problem(422, str(error), errors=[{"field": error.field, "detail": str(error)}])
    if isinstance(error, UndecodableQueryError):
        status = _STATUS_OF_REASON.get(error.reason.code, 422)
        return Problem(status, str(error), errors=[{"field": "file", "detail": str(error.reason)}])
    if isinstance(error, RefusedPathsError):
        return Problem(422, str(error), errors=[asdict(r) for r in error.refusals], errors_count=error.total)
    if isinstance(error, NoThumbnailError):
        return Problem(404 if error.reason.is_about_path else 422, str(error), reason=str(error.reason))
    if isinstance(error, LedgerBusyError):
        return Problem(503, str(error), headers={"Retry-After": str(RETRY_AFTER_S)})
    statuses = (status for kind, status in _STATUS_OF_ERROR if isinstance(error, kind))
    return Problem(next(statuses, 500), str(error))


def _of_invalid_request(_request: Request, error: Exception) -> Problem:
    assert isinstance(error, RequestValidationError)
    return _unfit(error.errors())


def _unfit(faults: Sequence[Mapping[str, Any]]) -> Problem:
    errors = [_fault(fault) for fault in faults]
    return Problem(422, "; ".join(f"{e['field']}: {e['detail']}" for e in errors[:FAULTS_IN_DETAIL]), errors=errors)


def _fault(fault: Mapping[str, Any]) -> dict[str, str]:
    where = [str(part) for part in fault["loc"] if part not in ("query", "body", "path", "header")]
    return {"field": ".".join(where) or "body", "detail": fault["msg"].removeprefix("Value error, ")}


def _of_http_error(request: Request, error: Exception) -> Problem:
    assert isinstance(error, HTTPException)
    headers = {"Allow": _allowed(request)} if error.status_code == 405 else error.headers
    return Problem(error.status_code, error.detail, headers=headers)


def _allowed(request: Request) -> str:
    """The methods of a path for an `Allow` header. The framework names those of one route of the path only."""
    # Asked as the router itself would be: how it keeps the routes of included routers is its own affair.
    scopes = {method: {**request.scope, "method": method} for method in METHODS}
    routes = request.app.routes
    return ", ".join(m for m, scope in scopes.items() if any(r.matches(scope)[0] is Match.FULL for r in routes))
