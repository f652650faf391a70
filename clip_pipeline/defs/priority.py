"""How much of the processor a bulk run takes from those for whom somebody waits: the analysis lane and the service."""

import multiprocessing
import os

NICENESS = 10
"""Of nine parts of a busy core about one is left to a process of this niceness; an idle core is all its own."""


def give_way() -> None:
    """Lower this process's priority, and that of what it starts, where the process is one run's own.

    A run that is executed in somebody else's process, as `materialize` does, must not slow what comes after it there:
    an unprivileged process never gets its priority back.
    """
    if multiprocessing.parent_process() is not None:
        os.nice(max(0, NICENESS - os.nice(0)))
