"""Progress from inside a run: at most one observation a second, and always the last one."""

import time
from collections.abc import Callable

import dagster as dg

from clip_pipeline.core.keys import BatchKey

EVERY_S = 1.0


def observe_progress(
    context: dg.AssetExecutionContext, asset: dg.AssetKey, batch: BatchKey, *, noun: str
) -> Callable[[int, int], None]:
    """A callback for (done, total) that logs an asset observation of the batch's partition."""
    last_s = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last_s
        now_s = time.monotonic()
        if done < total and now_s - last_s < EVERY_S:
            return
        last_s = now_s
        context.log_event(
            dg.AssetObservation(
                asset,
                partition=str(batch),
                metadata={noun: done, "of": total, "percent": round(100 * done / total, 1) if total else 100.0},
            )
        )

    return report
