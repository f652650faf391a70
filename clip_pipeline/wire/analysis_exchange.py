"""Waiting for the result of an analysis request; see `exchange`."""

import time

from clip_pipeline.core.errors import ClipPipelineError
from clip_pipeline.wire.analysis_answers import Analysis
from clip_pipeline.wire.analysis_calls import WAIT_S, analysis_result, analysis_status
from clip_pipeline.wire.calls import Call
from clip_pipeline.wire.exchange import ApiError, Exchange, perform


class AnalysisTimeoutError(ClipPipelineError):
    """A request did not come to its end in time; `analysis` is where it stands. It goes on."""

    exit_code = 10

    def __init__(self, analysis: Analysis, timeout_s: float) -> None:
        super().__init__(f"analysis {analysis.request_id} is {analysis.status} after {timeout_s:g} s")
        self.analysis = analysis


def submit_and_wait(call: Call[Analysis], *, timeout_s: float | None) -> Exchange[Analysis]:
    """Send an image and wait as `wait_for_analysis`."""
    submitted = yield from perform(call)
    return (yield from wait_for_analysis(submitted.request_id, timeout_s=timeout_s))


def wait_for_analysis(request_id: str, *, timeout_s: float | None) -> Exchange[Analysis]:
    """The request at its end, completed or failed; the service answers as soon as it is.

    Raises:
        ApiError: it does not exist, or the service does not answer.
        AnalysisTimeoutError: it is not at its end in time.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        left_s = WAIT_S if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            analysis = yield from perform(analysis_result(request_id, wait_s=min(WAIT_S, left_s)))
        except ApiError as error:
            if error.status != 422:
                raise
            return (yield from perform(analysis_status(request_id)))  # it failed, and says why
        if analysis.is_final:
            return analysis
        if deadline is not None and timeout_s is not None and time.monotonic() >= deadline:
            raise AnalysisTimeoutError(analysis, timeout_s)
