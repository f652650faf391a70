"""The states a file and an image can be in. Every file is in exactly one at any time; DESIGN: every total balances.

registered -> manifested -> embedded -> indexed
     |            |  \\---------\\----------> failed (reason)
     |            duplicate (another file stands for the same content)
     \\-> failed    any -> deleted
"""

from enum import StrEnum


class FileState(StrEnum):
    """Where one registered path stands."""

    REGISTERED = "registered"
    MANIFESTED = "manifested"
    EMBEDDED = "embedded"
    INDEXED = "indexed"
    DUPLICATE = "duplicate"
    FAILED = "failed"
    DELETED = "deleted"


class ImageState(StrEnum):
    """Where one distinct content stands."""

    MANIFESTED = "manifested"
    EMBEDDED = "embedded"
    INDEXED = "indexed"
    FAILED = "failed"
    DELETED = "deleted"


PENDING_FILES = (FileState.REGISTERED, FileState.MANIFESTED, FileState.EMBEDDED)
"""Work remains to be done for these."""

KNOWN_FILES = (FileState.INDEXED, FileState.DUPLICATE)
"""Nothing remains to be done for these while size and mtime stay the same."""

STANDING_FILES = (FileState.MANIFESTED, FileState.EMBEDDED, FileState.INDEXED)
"""A file in one of these stands for its image: exactly one for each live image."""

LIVE_IMAGES = (ImageState.MANIFESTED, ImageState.EMBEDDED, ImageState.INDEXED)
"""An image in one of these has a standing file."""

VECTOR_IMAGES = (ImageState.EMBEDDED, ImageState.INDEXED)
"""An image in one of these has a vector in the sealed embeddings of its batch."""


class AnalysisState(StrEnum):
    """Where one analysis request stands: submitted <-> processing -> completed or failed (reason)."""

    SUBMITTED = "submitted"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"


FINAL_ANALYSES = (AnalysisState.COMPLETED, AnalysisState.FAILED)
"""Nothing happens to a request in one of these any more, but its removal."""
