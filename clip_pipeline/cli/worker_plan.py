"""The servers of a worker: where each listens, on which device it works, its command and its environment."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from clip_pipeline.cli.stack.plan import CODE_LOCATIONS
from clip_pipeline.cli.stack.processes import MARKER, Program
from clip_pipeline.core.errors import ConfigurationError
from clip_pipeline.settings import Settings

LOCATION = "gpu"
WILDCARDS = ("0.0.0.0", "::")  # noqa: S104  recognised, not bound to
DEVICE_MODULE = "clip_pipeline.embedding.device_check"
_DEVICES_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Seat:
    """One code server of a worker.

    host, port: where the launcher finds it, as the fleet file has it; listen: the address it binds to. device: the
    setting that its runs get; visible: CUDA_VISIBLE_DEVICES for them, None to leave that as it is.
    """

    host: str
    port: int
    listen: str
    name: str
    device: str
    visible: str | None

    @property
    def address(self) -> str:
        """`host:port`, the name of the server wherever it is shown."""
        return f"{self.host}:{self.port}"

    @property
    def asked_at(self) -> str:
        """The address at which this machine itself reaches the server."""
        return "127.0.0.1" if self.listen in WILDCARDS else self.listen


def planned_seats(first: Seat, gpu: str, *, devices: Mapping[str, str]) -> list[Seat]:
    """The seats of one worker. first: that of the first server; gpu: auto, cpu, cuda, cuda:N or all.

    devices: what CUDA_VISIBLE_DEVICES is to be -> the device's name, in order; looked at for `cuda:N` and `all`.

    Raises:
        ConfigurationError: there is no such device.
    """
    if gpu in ("auto", "cuda"):
        return [replace(first, device=gpu)]
    if gpu == "cpu":
        return [replace(first, device="cpu", visible="")]
    visible = list(devices)
    if gpu == "all" and visible:
        return [
            replace(first, port=first.port + n, name=f"{first.name}-{n}", device="cuda", visible=one)
            for n, one in enumerate(visible)
        ]
    number = gpu.removeprefix("cuda:")
    if number.isdecimal() and int(number) < len(visible):
        return [replace(first, device="cuda", visible=visible[int(number)])]
    raise ConfigurationError(
        f"--gpu {gpu}: this machine has {len(visible)} CUDA devices that torch sees; expected auto, cpu, cuda, all or "
        "cuda:N with N below that. Look at `nvidia-smi` and CUDA_VISIBLE_DEVICES, and install a CUDA build of torch"
    )


def visible_devices(environment: Mapping[str, str]) -> dict[str, str]:
    """What CUDA_VISIBLE_DEVICES is to be for each device that this worker may use -> its name.

    Asked in a process of its own: whoever asks holds memory of the device for as long as it lives.
    """
    asked = subprocess.run(
        [sys.executable, "-m", DEVICE_MODULE], env=dict(environment), stdout=subprocess.PIPE, text=True, check=False,
        timeout=_DEVICES_TIMEOUT_S,
    )  # fmt: skip
    if asked.returncode != 0:
        raise ConfigurationError("torch cannot be asked for CUDA devices; what it says stands above")
    names: list[str] = json.loads(asked.stdout)
    given = environment.get("CUDA_VISIBLE_DEVICES")
    ids = [part.strip() for part in given.split(",")] if given else [str(n) for n in range(len(names))]
    return dict(zip(ids, names, strict=False))


def seat_folder(settings: Settings, seat: Seat) -> Path:
    """The folder of one server's log, and the mark of its processes."""
    return settings.home_path / "workers" / f"{seat.host}-{seat.port}".replace(":", "-")


def seat_environment(settings: Settings, seat: Seat) -> dict[str, str]:
    """What the server, its checks and its runs find in their environment."""
    home = str(settings.home_path)
    environment = dict(os.environ) | {
        "CLIP_PIPELINE_HOME": home,
        "CLIP_PIPELINE_ROOTS": ":".join(str(folder) for folder in settings.root_folders),
        "CLIP_PIPELINE_ENCODER": settings.encoder,
        "CLIP_PIPELINE_DEVICE": settings.device if seat.device == "auto" else seat.device,
        "DAGSTER_HOME": os.environ.get("DAGSTER_HOME") or str(settings.home_path / "dagster"),
        # A server that drains waits so long for calls that others left open, a minute by default.
        "DAGSTER_GRPC_SHUTDOWN_GRACE_PERIOD": "2",
        "PYTHONUNBUFFERED": "1",
        MARKER: str(seat_folder(settings, seat)),
    }
    return environment if seat.visible is None else environment | {"CUDA_VISIBLE_DEVICES": seat.visible}


def seat_program(settings: Settings, seat: Seat) -> Program:
    """The code server. `code-server start` would not do: what it starts cannot be asked for its runs."""
    command = [
        sys.executable, "-m", "dagster", "api", "grpc", "--module-name", CODE_LOCATIONS[LOCATION], "--host",
        seat.listen, "--port", str(seat.port), "--location-name", LOCATION, "--use-python-environment-entry-point",
        "--log-format", "json" if settings.log_format == "json" else "colored",
    ]  # fmt: skip
    log = seat_folder(settings, seat) / "server.log"
    return Program(f"worker {seat.address}", command, seat_environment(settings, seat), log)
