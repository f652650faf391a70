"""When is a program that died started again, and when is it given up? A decision over the times of its deaths."""

import signal
from dataclasses import dataclass, field

WINDOW_S = 60.0
MAX_CRASHES = 5
MAX_KILLS = 12
"""Deaths by SIGKILL within the window: somebody, or the kernel short of memory, does it to a program that works."""

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0

HOPELESS_STATUSES = frozenset({3})
"""The command line's status for a wrong configuration: starting again changes nothing."""


@dataclass(slots=True)
class CrashHistory:
    """The deaths of one program within the last minute, as (monotonic seconds, exit status)."""

    deaths: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])

    def note(self, status: int, *, now: float) -> float | None:
        """Take note of a death; the seconds to wait before the next start, or None where the program is given up."""
        self.deaths = [(at, old) for at, old in self.deaths if now - at < WINDOW_S] + [(now, status)]
        kills = sum(old == -signal.SIGKILL for _, old in self.deaths)
        crashes = len(self.deaths) - kills
        if status in HOPELESS_STATUSES or crashes >= MAX_CRASHES or kills >= MAX_KILLS:
            return None
        return min(FIRST_PAUSE_S * 2 ** (len(self.deaths) - 1), LONGEST_PAUSE_S)
