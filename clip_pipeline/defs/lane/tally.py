"""What a run of the lane has done so far, in numbers for people."""

from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from clip_pipeline.ledger.analysis_queue import Claimed, Failed

REMEMBERED = 1_000
"""Latencies of so many requests, the newest, are kept for the percentiles."""


@dataclass(slots=True)
class Tally:
    """Counts since the run began, and how long the newest requests took from submission to result."""

    completed: int = 0
    failed: int = 0
    reused: int = 0
    batches: int = 0
    busy_s: float = 0.0
    latencies_s: deque[float] = field(default_factory=lambda: deque[float](maxlen=REMEMBERED))

    @property
    def requests(self) -> int:
        """Requests that were brought to their end."""
        return self.completed + self.failed

    def add(
        self,
        claimed: Sequence[Claimed],
        failed: Sequence[Failed],
        *,
        ended: Collection[int],
        reused: int,
        seconds: float,
    ) -> None:
        """Count one micro-batch. ended: the seqs whose outcome was recorded; of the others nothing is counted."""
        failures = sum(outcome.seq in ended for outcome in failed)
        self.failed += failures
        self.completed += len(ended) - failures
        self.reused += reused
        self.batches += 1
        self.busy_s += seconds
        now = datetime.now(UTC)
        self.latencies_s.extend(
            (now - datetime.fromisoformat(request.submitted_at)).total_seconds()
            for request in claimed
            if request.seq in ended
        )

    def describe(self) -> dict[str, int | float]:
        """The numbers as metadata for the Dagster UI."""
        numbers: dict[str, int | float] = {
            "completed": self.completed,
            "failed": self.failed,
            "reused_vectors": self.reused,
            "micro_batches": self.batches,
            "mean_micro_batch": round(self.requests / self.batches, 2) if self.batches else 0.0,
            "busy_s": round(self.busy_s, 2),
            "requests_per_busy_s": round(self.requests / self.busy_s, 2) if self.busy_s else 0.0,
        }
        if self.latencies_s:
            p50, p99 = np.percentile(list(self.latencies_s), [50, 99]).tolist()
            numbers |= {"latency_p50_ms": round(1000 * p50, 1), "latency_p99_ms": round(1000 * p99, 1)}
        return numbers
