"""What a worker makes sure of before it takes work. Run as a program, for one server, so that CUDA and the encoder's
memory are given back, and a crash in a driver costs this process alone; it prints what it found as JSON.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from clip_pipeline.cli.configuration import load_settings
from clip_pipeline.cli.stack.ports import is_free
from clip_pipeline.cli.stack.processes import describe_exit
from clip_pipeline.cli.worker_plan import Seat, seat_environment
from clip_pipeline.core.errors import ClipPipelineError, ConfigurationError, StoreError
from clip_pipeline.core.pinning import pinned_encoder
from clip_pipeline.ledger.clock import clock_difference_s
from clip_pipeline.ledger.database import Ledger, open_existing_ledger
from clip_pipeline.ledger.deployment import STORE_ID, own_versions, recorded_deployment, store_fault
from clip_pipeline.settings import Settings

MODULE = "clip_pipeline.cli.worker_checks"
CLOCK_S = 5.0
TIMEOUT_S = 900.0
"""The first encoder of a host may have to be downloaded."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One check. ok: None where an earlier failure kept it from being made; detail: what was found, or the remedy."""

    name: str
    ok: bool | None
    detail: str


@dataclass(slots=True)
class Findings:
    """All checks of one server in their order, and what they told about it."""

    checks: list[Finding] = field(default_factory=list[Finding])
    gpu: str = ""
    encoder: str = ""
    fingerprint: str = ""

    @property
    def all_hold(self) -> bool:
        """True where work may be taken."""
        return all(check.ok for check in self.checks)

    def holds(self, name: str, look: Callable[[], str], *, after: Sequence[str] = ()) -> bool:
        """Make one check, unless one that it builds upon failed. look: what it found, or raises what is wrong."""
        missing = [one.name for one in self.checks if one.name in after and not one.ok]
        if missing:
            self.checks.append(Finding(name, None, f"not made: {', '.join(missing)} failed"))
            return False
        try:
            found = Finding(name, True, look())
        except Exception as error:  # noqa: BLE001  whatever is wrong is what was asked for
            said = str(error) if isinstance(error, ClipPipelineError) else f"{type(error).__name__}: {error}"
            found = Finding(name, False, " ".join(said.split()))
        self.checks.append(found)
        return bool(found.ok)


def checked_apart(settings: Settings, seat: Seat, *, renew: bool) -> Findings:
    """The findings of one server, made in a process of its own with the environment of its runs."""
    command = [sys.executable, "-m", MODULE, seat.listen, str(seat.port), "renew" if renew else "compare"]
    child = subprocess.run(
        command, env=seat_environment(settings, seat), stdout=subprocess.PIPE, text=True, check=False, timeout=TIMEOUT_S
    )
    if child.returncode != 0:
        detail = f"the checks ended with {describe_exit(child.returncode)}; what they said stands above"
        return Findings([Finding("checks", False, detail)])
    document: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    checks = [Finding(**check) for check in document.pop("checks")]
    return Findings(checks, **document)


def make_checks(settings: Settings, *, listen: str, port: int, renew: bool) -> Findings:
    """Every check, in this process, as the environment has it."""
    found = Findings()
    found.holds("home", lambda: _home(settings))
    found.holds("port", lambda: _port(listen, port))
    found.holds("dagster", _dagster)
    opened: list[Ledger] = []
    found.holds("ledger", lambda: _ledger(settings, opened))
    found.holds("clock", lambda: _clock(opened[0]), after=["ledger"])
    found.holds("versions", lambda: _versions(opened[0]), after=["ledger"])
    found.holds("store", lambda: _store(settings, opened[0]), after=["ledger"])
    found.holds("roots", lambda: _roots(settings))
    for ledger in opened:
        ledger.close()
    _check_encoder(settings, found, renew=renew)
    return found


def _check_encoder(settings: Settings, found: Findings, *, renew: bool) -> None:
    loaded: list[Any] = []

    def device() -> str:
        from clip_pipeline.embedding.device_check import check_device  # noqa: PLC0415  (torch)

        found.gpu = check_device(settings.device)
        return found.gpu

    def encoder() -> str:
        from clip_pipeline.embedding.registry import load_pinned_encoder  # noqa: PLC0415  (torch)

        spec = pinned_encoder(settings.store)
        if spec is None:
            raise ConfigurationError("no encoder is pinned; run `clip-pipeline init` on the controller")
        cache_dir = settings.home_path / "cache"
        loaded.append(load_pinned_encoder(spec, device=settings.device, backend=settings.backend, cache_dir=cache_dir))
        found.encoder, found.fingerprint = spec.name, spec.fingerprint
        return f"{spec.name}, fingerprint {spec.fingerprint[:12]}"

    found.holds("device", device)
    found.holds("encoder", encoder, after=["device", "store"])
    found.holds("canary", lambda: _canary(settings, loaded[0], renew=renew), after=["encoder"])


def _home(settings: Settings) -> str:
    home = settings.home_path
    if not home.is_dir():
        raise ConfigurationError(f"{home} is not there; mount the controller's home, or set CLIP_PIPELINE_HOME to it")
    if not os.access(home, os.W_OK | os.X_OK):
        raise ConfigurationError(f"{home} cannot be written by user {os.getuid()}; change its owner or permissions")
    return str(home)


def _port(listen: str, port: int) -> str:
    if not is_free(port, listen):
        raise ConfigurationError(
            f"nothing can listen at {listen}:{port}: another program does, or it is no address of this machine; choose "
            "another --port, or say --listen"
        )
    return f"{listen}:{port} is free"


def _dagster() -> str:
    home = Path(os.environ["DAGSTER_HOME"])
    if not (home / "dagster.yaml").is_file():
        raise ConfigurationError(f"{home} has no dagster.yaml; set DAGSTER_HOME to a folder with the controller's")
    from clip_pipeline.defs.instance import reach_instance  # noqa: PLC0415  (2 s)

    return f"{home}, runs in {reach_instance()}"


def _ledger(settings: Settings, opened: list[Ledger]) -> str:
    opened.append(open_existing_ledger(settings.ledger_location))
    return opened[0].engine.url.render_as_string()


def _clock(ledger: Ledger) -> str:
    ahead_s = clock_difference_s(ledger)
    if abs(ahead_s) > CLOCK_S:
        raise ConfigurationError(
            f"this machine's clock is {abs(ahead_s):.1f} s {'ahead of' if ahead_s > 0 else 'behind'} the database's; "
            f"at most {CLOCK_S:g} s are allowed. Let chrony or systemd-timesyncd keep it"
        )
    return f"{ahead_s:+.3f} s from the database's"


def _versions(ledger: Ledger) -> str:
    recorded, own = recorded_deployment(ledger), own_versions()
    differing = {name: recorded[name] for name in own if name in recorded and recorded[name] != own[name]}
    if differing:
        faults = [f"{name} is {own[name]}, the controller's {theirs}" for name, theirs in differing.items()]
        raise ConfigurationError(f"{'; '.join(faults)}; install the controller's versions here, or the other way round")
    return f"clip-pipeline {own['version']}, dagster {own['dagster_version']}"


def _store(settings: Settings, ledger: Ledger) -> str:
    store = settings.store
    recorded = recorded_deployment(ledger).get(STORE_ID)
    if recorded is None:
        raise ConfigurationError(
            "no controller has said yet which store is its own; run `clip-pipeline init`, `up` or `api` there first"
        )
    fault = store_fault(store, recorded)
    if fault is not None:
        raise StoreError(fault)
    try:
        store.try_writing()
    except OSError as error:
        raise StoreError(
            f"{store.root} cannot be written: {error}; look at its mount and at its permissions"
        ) from error
    return f"{store.root}, store {recorded[:8]}"


def _roots(settings: Settings) -> str:
    faults: list[str] = []
    for folder in settings.root_folders:
        try:
            next(os.scandir(folder), None)
        except OSError as error:
            faults.append(f"{folder}: {error.strerror}")
    if faults:
        raise ConfigurationError(f"{'; '.join(faults)}; mount the images where the controller has them")
    folders = ", ".join(str(folder) for folder in settings.root_folders)
    return folders or "none set (CLIP_PIPELINE_ROOTS): images are read wherever their paths lead"


def _canary(settings: Settings, encoder: Any, *, renew: bool) -> str:
    from clip_pipeline.embedding.canary import canary_ring, check_canary, renew_canary  # noqa: PLC0415  (torch)

    preprocessing = encoder.spec.preprocessing
    with canary_ring(preprocessing, limits=settings.image_limits, forward_batch=settings.forward_batch) as ring:
        if renew:
            renew_canary(settings.store, encoder, ring=ring)
            return "its vectors are golden from now on, in place of what was, on your word"
        result = check_canary(settings.store, encoder, ring=ring)
    if result.cosine is None:
        return "the first under this fingerprint: its vectors are golden from now on, for all others to reproduce"
    return f"golden vectors reproduced, least cosine {result.cosine:.6f}"


def main(arguments: Sequence[str]) -> None:
    """Print the findings for `LISTEN PORT compare|renew`."""
    listen, port, canary = arguments
    found = make_checks(load_settings(), listen=listen, port=int(port), renew=canary == "renew")
    sys.stdout.write(json.dumps(asdict(found)) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
