"""A value made at first use and once, whatever the number of threads that ask: model towers load this way."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Once(Generic[T]):
    """Calls `make` at the first call and returns its result at every call; after an error the next call tries again.

    `functools.cached_property` takes no lock since Python 3.12: two threads could load a model twice.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: list[T] = []

    def __call__(self) -> T:
        """The value."""
        with self._lock:
            if not self._made:
                self._made.append(self._make())
        return self._made[0]
