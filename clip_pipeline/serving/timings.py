"""Where the time of a search went, and the standard header that says so. No web framework here."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

Part: TypeAlias = Literal["decode", "encode", "index", "ledger", "labels"]


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds that one search spent in each part, waiting for its turn there included; 0 where it had none."""

    decode: float = 0.0
    encode: float = 0.0
    index: float = 0.0
    ledger: float = 0.0
    labels: float = 0.0

    @property
    def server_timing(self) -> str:
        """The value of a `Server-Timing` header: `encode;dur=4.1, index;dur=1.2, ledger;dur=0.9`.

        Source: W3C Server Timing, https://www.w3.org/TR/server-timing/
        """
        return ", ".join(f"{part};dur={spent_ms:.2f}" for part, spent_ms in asdict(self).items() if spent_ms)


class Stopwatch:
    """Adds up what one search, in one thread, spends in each part."""

    def __init__(self) -> None:
        self._spent_ms: dict[Part, float] = {}

    @contextmanager
    def measure(self, part: Part) -> Generator[None, None, None]:
        """What runs inside counts for this part."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._spent_ms[part] = self._spent_ms.get(part, 0.0) + 1000 * (time.perf_counter() - started)

    def timings(self) -> Timings:
        """What was spent until now."""
        return Timings(**self._spent_ms)
