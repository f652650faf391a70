"""Long lists of ids in pieces that every database takes as bound values of one statement."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

CHUNK_IDS = 900
"""Under SQLite's old limit of 999 bound values, and measured the fastest size there."""

Item = TypeVar("Item")


def chunks(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """The items in order, at most `CHUNK_IDS` at a time; nothing for none."""
    return (items[start : start + CHUNK_IDS] for start in range(0, len(items), CHUNK_IDS))
