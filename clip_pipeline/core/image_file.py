"""One image file read whole, once: the bytes, and the facts that hold for exactly these bytes."""

import hashlib
import os
import stat
from dataclasses import dataclass

from clip_pipeline.core.paths import text_to_path
from clip_pipeline.core.reasons import Reason, ReasonCode


@dataclass(frozen=True, slots=True)
class FileContent:
    """What one file held. sha256: 64 hex digits over `data`."""

    data: bytes
    mtime_ns: int
    sha256: str


def read_file(path_text: str, *, max_bytes: int) -> FileContent | Reason:
    """The content of the file at `path_text` (text form of `core.paths`), or why it cannot be had.

    Symlinks are followed; pipes, devices and folders are refused unopened. A file that is written to or replaced
    meanwhile is `CHANGED`: its bytes may be a mixture.
    """
    path = text_to_path(path_text)
    try:
        before = os.stat(path)
        refused = _refusal(before, max_bytes)
        if refused is not None:
            return refused
        data = _read(path, before.st_size + 1)
        after = os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        return Reason(ReasonCode.MISSING, error.strerror or "")
    except OSError as error:
        return Reason(ReasonCode.UNREADABLE, error.strerror or str(error))
    except ValueError as error:  # a null byte in the name
        return Reason(ReasonCode.UNREADABLE, str(error))
    except MemoryError:
        return Reason(ReasonCode.OUT_OF_MEMORY, "the file does not fit into memory")
    if _identity(before) != _identity(after) or len(data) != before.st_size:
        return Reason(ReasonCode.CHANGED, "the file changed while it was read")
    return FileContent(data, before.st_mtime_ns, hashlib.sha256(data).hexdigest())


def _refusal(facts: os.stat_result, max_bytes: int) -> Reason | None:
    if not stat.S_ISREG(facts.st_mode):
        kind = "a folder" if stat.S_ISDIR(facts.st_mode) else "a pipe, socket or device"
        return Reason(ReasonCode.NOT_A_FILE, f"{kind}, not a regular file")
    if facts.st_size == 0:
        return Reason(ReasonCode.EMPTY, "0 bytes")
    if facts.st_size > max_bytes:
        return Reason(ReasonCode.TOO_MANY_BYTES, f"{facts.st_size} bytes, the limit is {max_bytes}")
    return None


def _read(path: str, size: int) -> bytes:
    with open(path, "rb", opener=_open_without_waiting) as file:
        return file.read(size)


def _open_without_waiting(path: str, flags: int) -> int:
    # Should a pipe have taken the file's place since it was looked at: opening one waits for a writer.
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def _identity(facts: os.stat_result) -> tuple[int, int, int, int]:
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns
