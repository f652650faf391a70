"""Facts about image files for the manifest: content digest, format, size as displayed. Nothing is decoded here."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from clip_pipeline.core.image_file import read_file
from clip_pipeline.core.image_header import open_image, pillow_without_limits
from clip_pipeline.core.isolation import Crash, Error, Hang, IsolatedPool
from clip_pipeline.core.limits import ImageLimits
from clip_pipeline.core.reasons import Reason, ReasonCode


@dataclass(frozen=True, slots=True)
class Inspected:
    """One file that can be tried to decode. path: text form; width, height: pixels, EXIF `orientation` applied."""

    path: str
    size_bytes: int
    mtime_ns: int
    sha256: str
    format: str
    width: int
    height: int
    orientation: int


def inspect_file(path_text: str, limits: ImageLimits) -> Inspected | Reason:
    """The facts about one file, read once, or why it is refused. Runs in a worker: see `inspect_files`."""
    content = read_file(path_text, max_bytes=limits.max_bytes)
    if isinstance(content, Reason):
        return content
    with pillow_without_limits():
        opened = open_image(content.data, max_pixels=limits.max_pixels)
    if isinstance(opened, Reason):
        return opened
    return Inspected(
        path=path_text,
        size_bytes=len(content.data),
        mtime_ns=content.mtime_ns,
        sha256=content.sha256,
        format=opened.format,
        width=opened.width,
        height=opened.height,
        orientation=opened.orientation,
    )


def inspect_files(
    paths: Sequence[str],
    *,
    limits: ImageLimits,
    workers: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> Iterator[tuple[int, Inspected | Reason]]:
    """(index into `paths`, facts or reason) for every path, in any order, inspected in isolated processes.

    workers: 0 for one each core; each may hold one file, so `workers * limits.max_bytes` bounds the memory.
    on_progress: called with the number of files done, after each.
    """
    inspect = partial(_inspect_with, limits)
    with IsolatedPool(inspect, timeout_s=limits.timeout_s, workers=workers, backlog=32, preload=[__name__]) as pool:
        for done, outcome in enumerate(pool.map(paths), start=1):
            yield outcome.index, _fact_or_reason(outcome.value)
            if on_progress is not None:
                on_progress(done)


def reason_of(failure: Crash | Hang | Error) -> Reason:
    """The reason that stands for what happened to a worker process."""
    match failure:
        case Crash():
            return Reason(ReasonCode.DECODER_CRASHED, str(failure))
        case Hang():
            return Reason(ReasonCode.DECODER_HUNG, str(failure))
        case Error(kind="MemoryError"):
            return Reason(ReasonCode.OUT_OF_MEMORY, "reading or decoding the image")
        case Error():
            return Reason(ReasonCode.CORRUPT, str(failure))


def _inspect_with(limits: ImageLimits, path_text: str) -> Inspected | Reason:
    return inspect_file(path_text, limits)


def _fact_or_reason(value: Inspected | Reason | Crash | Hang | Error) -> Inspected | Reason:
    return reason_of(value) if isinstance(value, Crash | Hang | Error) else value
