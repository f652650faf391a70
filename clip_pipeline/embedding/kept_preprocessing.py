"""What transformers makes of a model's preprocessing, kept between processes.

Asking it imports every image processor's machinery, torch's compiler included: 3 s and 110 MB that a process with a
converted tower has no other use for.
"""

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from clip_pipeline import __version__
from clip_pipeline.core.encoder import Preprocessing
from clip_pipeline.core.store import replace_file

logger = logging.getLogger(__name__)

_DECIDED_BY = ("config.json", "preprocessor_config.json", "processor_config.json")


def remembered_preprocessing(
    read: Callable[[], Preprocessing], folder: Path, *, cache_dir: Path | None
) -> Preprocessing:
    """What `read` returns for the model in `folder`; not called where it was with the same files and versions.

    Raises:
        EncoderUnavailableError: `read` does; a refusal is not kept.
    """
    if cache_dir is None:
        return read()
    path = cache_dir / "preprocessing" / f"{_digest(folder)}.json"
    kept = _kept(path)
    if kept is not None:
        return kept
    found = read()
    try:
        with replace_file(path) as temporary:
            temporary.write_text(json.dumps(asdict(found)))
    except OSError as error:
        logger.warning("a model's preprocessing is not kept", extra={"file": str(path), "error": str(error)})
    return found


def _digest(folder: Path) -> str:
    files = [folder / name for name in _DECIDED_BY]
    contents = [hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None for path in files]
    parts = [__version__, version("transformers"), *contents]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _kept(path: Path) -> Preprocessing | None:
    """None where there is none, or it is damaged."""
    try:
        values: dict[str, Any] = json.loads(path.read_text())
        return Preprocessing(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None
