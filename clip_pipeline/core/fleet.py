"""The fleet file: on which workers the runs of a code location start.

    gpu:
      - {host: gpu01, port: 4000}
      - {host: gpu02, port: 4000, slots: 2}

A location that the file does not name starts its runs on its own code server. One with an empty list starts none:
its runs wait in the queue until a worker is added.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard, cast

import yaml

from clip_pipeline.core.errors import ConfigurationError

_KEYS = {"host", "port", "slots"}


@dataclass(frozen=True, slots=True)
class Worker:
    """A code server that runs start on.

    slots: how many runs of one Dagster job it works on at once. Each job has slots of its own, so that a run of the
    analysis lane, for which people wait, never waits for a bulk run to end.
    """

    host: str
    port: int
    slots: int = 1

    @property
    def address(self) -> str:
        """`host:port`, the name of the worker wherever it is shown."""
        return f"{self.host}:{self.port}"


Fleet: TypeAlias = Mapping[str, tuple[Worker, ...]]
"""Name of a code location -> its workers, in the order of the file."""


def read_fleet(path: Path) -> Fleet:
    """The fleet of one file.

    Raises:
        ConfigurationError: the file cannot be read, or says something that is not a fleet.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"cannot read the fleet file {path}: {error}; write it, or leave CLIP_PIPELINE_FLEET empty to run without"
        ) from error
    return parse_fleet(text, source=str(path))


def parse_fleet(text: str, *, source: str = "the fleet file") -> Fleet:
    """The fleet that a YAML text describes; an empty text describes one without locations.

    Raises:
        ConfigurationError: it is not YAML, not of that shape, or names one address twice.
    """
    try:
        document: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{source} is not YAML: {' '.join(str(error).split())}") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigurationError(f"{source}: expected code locations with their workers, got {document!r}")
    fleet: dict[str, tuple[Worker, ...]] = {}
    for location, workers in cast("dict[Any, Any]", document).items():
        if not isinstance(location, str) or not isinstance(workers, list):
            raise ConfigurationError(
                f"{source}: expected the name of a code location and a list of workers, got {location!r}: {workers!r}"
            )
        entries = enumerate(cast("list[Any]", workers), start=1)
        fleet[location] = tuple(_worker(entry, f"{source}: {location}, worker {n}") for n, entry in entries)
    _refuse_twins(fleet, source)
    return fleet


@dataclass(frozen=True, slots=True)
class FleetState:
    """What a look at the fleet file gave. fleet: None where no usable content was ever read; fault: what is wrong
    with the file as it is now, None where nothing is."""

    fleet: Fleet | None
    fault: str | None


class FleetFile:
    """A fleet file that is read again when it changes; while it is faulty, what it said before holds on."""

    def __init__(self, path: Path) -> None:
        """Reads nothing yet. Safe to share between threads."""
        self.path = path
        self._lock = threading.Lock()
        self._seen: object = None
        self._state = FleetState(None, None)

    def look(self) -> FleetState:
        """The fleet as the file has it now, or had it when it was last in order. One `stat` where nothing changed."""
        with self._lock:
            # Before reading: what is written while it is read then shows as another change at the next look.
            found = self._signature()
            if found != self._seen:
                self._state = self._read()
                self._seen = found
            return self._state

    def _read(self) -> FleetState:
        try:
            return FleetState(read_fleet(self.path), None)
        except ConfigurationError as error:
            return FleetState(self._state.fleet, str(error))

    def _signature(self) -> tuple[int, int, int] | str:
        try:
            found = self.path.stat()
        except OSError as error:
            return f"cannot be examined: {error}"
        return found.st_mtime_ns, found.st_size, found.st_ino


def _worker(entry: object, where: str) -> Worker:
    if not isinstance(entry, dict):
        raise ConfigurationError(f"{where}: expected {{host: ..., port: ...}}, got {entry!r}")
    fields = cast("dict[Any, Any]", entry)
    unknown = sorted(str(key) for key in fields.keys() - _KEYS)
    if unknown:
        raise ConfigurationError(f"{where}: unknown {', '.join(unknown)}; a worker has host, port and slots")
    host, port, slots = fields.get("host"), fields.get("port"), fields.get("slots", 1)
    if not isinstance(host, str) or not host.strip() or any(c.isspace() or c in "/:" for c in host):
        raise ConfigurationError(f"{where}: host must be a name or an address without a port, got {host!r}")
    if not _is_whole(port) or not 1 <= port <= 65535:
        raise ConfigurationError(f"{where}: port must be a whole number from 1 to 65535, got {port!r}")
    if not _is_whole(slots) or slots < 1:
        raise ConfigurationError(f"{where}: slots must be a whole number from 1, got {slots!r}")
    return Worker(host, port, slots)


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _refuse_twins(fleet: Fleet, source: str) -> None:
    seen: dict[str, str] = {}
    for location, workers in fleet.items():
        for worker in workers:
            if worker.address in seen:
                raise ConfigurationError(
                    f"{source}: {worker.address} is named twice, for {seen[worker.address]} and for {location}; a "
                    "code server serves one location, and its slots are given once"
                )
            seen[worker.address] = location
