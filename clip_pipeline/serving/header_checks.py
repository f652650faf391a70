"""Looking at uploaded files in isolated processes, several at a time, so that one that hangs holds up few others."""

import queue
from pathlib import Path
from typing import TypeAlias

from clip_pipeline.core.inspection import Inspected, inspect_file
from clip_pipeline.core.isolation import IsolatedPool
from clip_pipeline.core.limits import ImageLimits
from clip_pipeline.core.paths import path_to_text
from clip_pipeline.core.reasons import Reason
from clip_pipeline.serving.one_worker import OneWorker

PROCESSES = 3

Task: TypeAlias = tuple[str, ImageLimits]


class HeaderChecks:
    """Processes that read files and their headers, started when they are needed. Safe to share between threads."""

    def __init__(self, limits: ImageLimits, *, processes: int = PROCESSES) -> None:
        self._limits = limits
        self._workers = [OneWorker[Task, Inspected](self._pool) for _ in range(processes)]
        # The one used last is taken first: where one is enough, no other process is started.
        self._free: queue.LifoQueue[OneWorker[Task, Inspected]] = queue.LifoQueue()
        for worker in self._workers:
            self._free.put(worker)

    def inspect(self, file: Path) -> Inspected | Reason:
        """The facts about one file, or why it is no image that may be decoded."""
        worker = self._free.get()
        try:
            with worker.turn() as run:
                return run((path_to_text(file), self._limits))
        finally:
            self._free.put(worker)

    def close(self) -> None:
        """Stop the processes, those at work when they are done."""
        for worker in self._workers:
            worker.close()

    def _pool(self) -> IsolatedPool[Task, Inspected | Reason]:
        return IsolatedPool(inspect_task, timeout_s=self._limits.timeout_s, workers=1)


def inspect_task(task: Task) -> Inspected | Reason:
    """What the process does: `inspect_file` with its arguments in one."""
    return inspect_file(*task)
