"""How a call goes when things go wrong: what is tried again, when, and what the caller is told in the end.

Written as generators that say what to do next and are given what came of it, so that the synchronous and the
asynchronous client differ only in how they wait.
"""

import random
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeAlias, TypeVar

import httpx

from clip_pipeline.core.errors import ClipPipelineError
from clip_pipeline.wire import calls
from clip_pipeline.wire.answers import Job

Result = TypeVar("Result")

MOST_ATTEMPTS = 5
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0
LONGEST_RETRY_AFTER_S = 60.0
"""A service that asks for more patience than this gets none: the caller is told."""
FIRST_POLL_S, LONGEST_POLL_S = 0.2, 2.0

_random = random.SystemRandom()


class ApiError(ClipPipelineError):
    """The service refused a request, or did not answer it. status: of HTTP, 0 where there was no answer.

    errors: the fields at fault, as in a problem document; request_id: under which the service logged the request.
    """

    exit_code = 10

    def __init__(
        self, status: int, title: str, detail: str, *, errors: Sequence[Mapping[str, Any]] = (), request_id: str = ""
    ) -> None:
        super().__init__(f"{title}: {detail}" if detail else title)
        self.status = status
        self.title = title
        self.detail = detail
        self.errors = tuple(errors)
        self.request_id = request_id


class WaitTimeoutError(ClipPipelineError):
    """A job did not come to its end in time; `job` is where it stands. It goes on."""

    exit_code = 10

    def __init__(self, job: Job, timeout_s: float) -> None:
        super().__init__(f"job {job.job_id} is {job.status} ({job.progress.percent_complete} %) after {timeout_s:g} s")
        self.job = job


@dataclass(frozen=True, slots=True)
class Send:
    """Send this request; resume with the response, or with the error of the transport."""

    call: calls.Call[Any]


@dataclass(frozen=True, slots=True)
class Pause:
    """Resume after so many seconds."""

    seconds: float


Step: TypeAlias = Send | Pause
Outcome: TypeAlias = httpx.Response | httpx.TransportError | None
Exchange: TypeAlias = Generator[Step, Outcome, Result]


def perform(call: calls.Call[Result]) -> Exchange[Result]:
    """The answer to a call, tried again where that is safe and promises something.

    Raises:
        ApiError: it was refused, or not answered.
    """
    for attempt in range(1, MOST_ATTEMPTS + 1):
        outcome = yield Send(call)
        assert outcome is not None
        if isinstance(outcome, httpx.Response) and (outcome.is_success or outcome.status_code in call.accepts):
            return _read(call, outcome)
        pause_s = None if attempt == MOST_ATTEMPTS else pause_before_retry(call, outcome, attempt=attempt)
        if pause_s is None:
            raise error_of(outcome)
        yield Pause(pause_s)
    raise AssertionError("the last attempt returns or raises")


def wait_for_job(job_id: str, *, on_progress: Callable[[Job], object] | None, timeout_s: float | None) -> Exchange[Job]:
    """The job at its end, asked for ever less often; `on_progress` is told where it stands whenever that changed.

    Raises:
        ApiError: it does not exist, or the service does not answer.
        WaitTimeoutError: it is not at its end in time.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    pause_s, last = FIRST_POLL_S, None
    while True:
        job = yield from perform(calls.job(job_id))
        pause_s = FIRST_POLL_S if last is None or job.progress != last.progress else min(1.5 * pause_s, LONGEST_POLL_S)
        if on_progress is not None and (last is None or (job.status, job.progress) != (last.status, last.progress)):
            on_progress(job)
        if job.is_final:
            return job
        if deadline is not None and timeout_s is not None and time.monotonic() + pause_s > deadline:
            raise WaitTimeoutError(job, timeout_s)
        last = job
        yield Pause(pause_s)


def pause_before_retry(
    call: calls.Call[Any], outcome: httpx.Response | httpx.TransportError, *, attempt: int
) -> float | None:
    """Seconds until the call may be tried again; None where it must not be, or where that promises nothing."""
    if isinstance(outcome, httpx.TransportError):
        never_sent = isinstance(outcome, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
        broken_off = isinstance(outcome, httpx.NetworkError | httpx.RemoteProtocolError)
        return _back_off(attempt) if never_sent or (broken_off and call.is_repeatable) else None
    # Refused before anything was done (429), or for a while (503).
    if outcome.status_code == 429 or (outcome.status_code == 503 and call.is_repeatable):
        asked_s = _retry_after_s(outcome.headers.get("Retry-After", ""))
        if asked_s is None:
            return _back_off(attempt)
        return asked_s if asked_s <= LONGEST_RETRY_AFTER_S else None
    return None


def error_of(outcome: httpx.Response | httpx.TransportError) -> ApiError:
    """What the caller is told."""
    if isinstance(outcome, httpx.TransportError):
        detail = str(outcome) or type(outcome).__name__
        return ApiError(0, "No answer", f"{detail}; is the service running there? `clip-pipeline up` starts it")
    request_id = outcome.headers.get("X-Request-ID", "")
    try:
        problem = outcome.json()
        title, detail, errors = problem["title"], problem.get("detail", ""), problem.get("errors", ())
    except (ValueError, KeyError, TypeError, AttributeError):
        return ApiError(outcome.status_code, outcome.reason_phrase, outcome.text[:500], request_id=request_id)
    return ApiError(outcome.status_code, title, detail, errors=errors, request_id=request_id)


def _read(call: calls.Call[Result], response: httpx.Response) -> Result:
    try:
        return call.read(response.json() if response.content else {})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ApiError(
            response.status_code, "Not an answer of this service", f"{call.method} {call.path}: {error}",
            request_id=response.headers.get("X-Request-ID", ""),
        ) from error  # fmt: skip


def _back_off(attempt: int) -> float:
    """Full jitter. Source: Brooker 2015, "Exponential Backoff And Jitter", AWS Architecture Blog."""
    return _random.uniform(0.0, min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**attempt))


def _retry_after_s(header: str) -> float | None:
    """Seconds, or a date (RFC 9110, 10.2.3); None where it is neither."""
    if header.strip().isdecimal():
        return float(header)
    try:
        then = parsedate_to_datetime(header)
    except ValueError:
        return None
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return max(0.0, (then - datetime.now(UTC)).total_seconds())
