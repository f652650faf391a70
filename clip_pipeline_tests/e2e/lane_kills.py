"""The lane of a real stack seen from outside while its processes are killed."""

from collections.abc import Iterable
from typing import Any

import httpx
import psutil

from clip_pipeline_tests.e2e.stack import Stack

PATIENCE_S = 240.0
RUN = "--multiprocessing-fork"
"""In the command line of a run's process; in these stacks no other run has anything to do."""


def history(url: str) -> dict[str, Any]:
    """Every request that the service knows, by id; none is listed twice."""
    listed: list[Any] = []
    parameters: dict[str, int] = {"limit": 200}
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        while True:
            page = client.get("/api/v1/analyses", params=parameters).raise_for_status().json()
            listed += page["analyses"]
            if page["next_before"] is None:
                break
            parameters["before"] = page["next_before"]
    found = {one["request_id"]: one for one in listed}
    assert len(found) == len(listed)
    return found


def ended(stack: Stack) -> int:
    """Requests at their end; 0 while the service does not answer."""
    try:
        counts = stack.get("/stats")
    except httpx.HTTPError:
        return 0
    return counts["completed"] + counts["failed"]


def process(stack: Stack, mark: str) -> psutil.Process | None:
    """The process of the stack whose command line has this mark."""
    for one in stack.processes():
        try:
            if mark in " ".join(one.cmdline()):
                return one
        except psutil.NoSuchProcess:
            continue
    return None


def kill(stack: Stack, mark: str) -> None:
    """SIGKILL it once it runs."""
    stack.wait(lambda: process(stack, mark) is not None, f"{mark} runs", PATIENCE_S)
    victim = process(stack, mark)
    assert victim is not None
    victim.kill()


def ends(requests: Iterable[Any]) -> dict[str, tuple[str, str]]:
    """Request id -> how and when it ended, of those that did."""
    return {one["request_id"]: (one["status"], one["completed_at"]) for one in requests if one["completed_at"]}
