"""Why an image or file ended as failed: a closed vocabulary of codes, each with a free-text detail.

A reason is stored as `code: detail`, so that reports can group by the code and people can read the rest.
"""

from dataclasses import dataclass
from enum import StrEnum

DETAIL_MAX_CHARS = 300


class ReasonCode(StrEnum):
    """What kind of thing was wrong. PATH codes speak of the file, the others of its content."""

    MISSING = "missing"
    UNREADABLE = "unreadable"
    CHANGED = "changed"
    NOT_A_FILE = "not-a-file"
    EMPTY = "empty"
    TOO_MANY_BYTES = "too-many-bytes"
    TOO_MANY_PIXELS = "too-many-pixels"
    NOT_AN_IMAGE = "not-an-image"
    UNSUPPORTED = "unsupported"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    DECODER_CRASHED = "decoder-crashed"
    DECODER_HUNG = "decoder-hung"
    OUT_OF_MEMORY = "out-of-memory"
    NOT_FINITE = "not-finite"
    KILLED_ITS_RUN = "killed-its-run"
    UNUSABLE_LABELS = "unusable-labels"


PATH_CODES = frozenset({ReasonCode.MISSING, ReasonCode.UNREADABLE, ReasonCode.CHANGED, ReasonCode.NOT_A_FILE})
"""The content may be fine: another file with the same content, or the same path later, can succeed."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One recorded reason. `str(reason)` is what is stored; `Reason.parse` reads it back."""

    code: ReasonCode
    detail: str = ""

    def __str__(self) -> str:
        flat = " ".join(self.detail.split())[:DETAIL_MAX_CHARS]
        return f"{self.code}: {flat}" if flat else str(self.code)

    @property
    def is_about_path(self) -> bool:
        """True where the fault lies with the file's path and not with its content."""
        return self.code in PATH_CODES

    @classmethod
    def parse(cls, text: str) -> "Reason":
        """Raises ValueError for a code that is not in the vocabulary."""
        code, _, detail = text.partition(":")
        return cls(ReasonCode(code.strip()), detail.strip())
