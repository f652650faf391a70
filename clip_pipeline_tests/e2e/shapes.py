"""Do the fields of a document have the types that the wire contract gives them? Fields beyond those may be there."""

import re
from collections.abc import Mapping
from typing import Any

MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
JOB_ID = re.compile(r"idx_\d{8}_\d{6}(_\w+)?")
NUMBER = (int, float)
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def misfits(value: Any, shape: Any, *, where: str = "document") -> list[str]:
    """What is wrong with a JSON value, in words. A shape is a type, a tuple of shapes of which one must fit, a pattern
    for a whole text, a dictionary of shapes, a list of one shape, or the value itself."""
    if isinstance(shape, tuple):
        is_fitting = any(not misfits(value, one) for one in shape)
        return [] if is_fitting else [f"{where}: {value!r} is none of {shape}"]
    if isinstance(shape, type):
        return [] if type(value) is shape else [f"{where}: {value!r} is no {shape.__name__}"]
    if isinstance(shape, re.Pattern):
        is_fitting = isinstance(value, str) and shape.fullmatch(value)
        return [] if is_fitting else [f"{where}: {value!r} is not like {shape.pattern}"]
    if isinstance(shape, Mapping):
        return _misfits_of_fields(value, shape, where)
    if isinstance(shape, list):
        items = value if isinstance(value, list) else [value]
        return [fault for i, item in enumerate(items) for fault in misfits(item, shape[0], where=f"{where}.{i}")]
    return [] if value == shape else [f"{where}: {value!r} is not {shape!r}"]


def _misfits_of_fields(value: Any, shape: Mapping[str, Any], where: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{where}: {value!r} is no object"]
    missing = [f"{where}.{name} is missing" for name in shape if name not in value]
    present = [name for name in shape if name in value]
    return missing + [fault for n in present for fault in misfits(value[n], shape[n], where=f"{where}.{n}")]


RUN = {
    "run_id": UUID, "status": str, "job_name": str, "started_at": (MOMENT, None), "ended_at": (MOMENT, None),
    "url": re.compile(r"http://127\.0\.0\.1:\d+/runs/.+"),
}  # fmt: skip
PROBLEM = {"type": str, "title": str, "status": int, "detail": str}
SUBMITTED = {
    "job_id": JOB_ID, "status": str, "images_count": int, "new_images_count": int, "already_indexed_count": int,
    "message": str,
}  # fmt: skip
STATUS = {
    "job_id": JOB_ID,
    "status": re.compile("queued|running|completed|failed|canceled"),
    "progress": {"total_images": int, "processed_images": int, "failed_images": int, "percent_complete": NUMBER},
    "created_at": MOMENT,
    "started_at": (MOMENT, None),
    "completed_at": (MOMENT, None),
    "error_message": (str, None),
    "eta_seconds": (*NUMBER, None),
    "runs": [RUN],
    "failed": [{"path": str, "reason": str}],
}
OVERALL = {
    "total_indexed_images": int,
    "active_jobs": int,
    "active_job_details": [{"job_id": JOB_ID, "status": str, "created_at": MOMENT}],
    "recent_jobs": [{"job_id": JOB_ID, "status": str, "created_at": MOMENT, "images": int}],
    "index_stats": {"model_name": str, "total_images": int},
}
STATS = {
    "model_name": str, "embedding_dim": int, "total_images": int, "num_failed": int, "last_updated": MOMENT,
    "index_size_mb": NUMBER,
}  # fmt: skip
SEARCH = {
    "query": dict,
    "index_release": str,
    "model_name": str,
    "took_ms": NUMBER,
    "results": [
        {"rank": int, "score": NUMBER, "image_id": int, "path": str, "duplicates": list, "width": int, "height": int}
    ],
}
WHEREABOUTS = {
    "path": str, "state": str, "reason": (str, None), "batch": (str, None), "run_id": (UUID, None),
    "index_release": (str, None),
}  # fmt: skip
