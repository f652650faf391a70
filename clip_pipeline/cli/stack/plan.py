"""The programs of the stack: their commands, their environment, and the files that Dagster reads."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from clip_pipeline.cli.stack.ports import LOOPBACK
from clip_pipeline.cli.stack.processes import MARKER, Program
from clip_pipeline.core.store import replace_file
from clip_pipeline.settings import Settings

CODE_LOCATIONS: Mapping[str, str] = {
    "control": "clip_pipeline.definitions",
    "gpu": "clip_pipeline.gpu_definitions",
}
"""Name of each code location -> the module of its definitions."""

CLI_MODULE = "clip_pipeline.cli.main"
INSTANCE_MODULE = "clip_pipeline.defs.instance"


@dataclass(frozen=True, slots=True)
class StackPlan:
    """One stack, with the port of each code server."""

    settings: Settings
    code_ports: Mapping[str, int]

    @property
    def dagster_home(self) -> Path:
        """The folder of Dagster's own state."""
        return self.settings.home_path / "dagster"

    @property
    def workspace(self) -> Path:
        """The file that tells Dagster where the code servers are."""
        return self.dagster_home / "workspace.yaml"

    @property
    def logs(self) -> Path:
        """The folder of one log file a program."""
        return self.settings.home_path / "logs"

    def code_servers(self) -> list[Program]:
        """One gRPC server for each code location. Runs are their children."""
        return [
            self._program(
                name, "dagster", "api", "grpc", "--module-name", module, "--host", LOOPBACK,
                "--port", str(self.code_ports[name]), "--location-name", name, "--use-python-environment-entry-point",
                *self._log_format,
            )
            for name, module in CODE_LOCATIONS.items()
        ]  # fmt: skip

    def service(self) -> Program:
        """The HTTP service."""
        return self._program("api", CLI_MODULE, "api")

    def kafka(self) -> Program | None:
        """Intake from Kafka and output to it, where a broker is set."""
        return self._program("kafka", CLI_MODULE, "kafka") if self.settings.kafka_bootstrap else None

    def webserver(self) -> Program:
        """The Dagster UI and its GraphQL API."""
        port = str(self.settings.dagster_port)
        return self._program(
            "webserver", "dagster_webserver", "--workspace", str(self.workspace), "--host", LOOPBACK, "--port", port,
            *self._log_format,
        )  # fmt: skip

    def daemon(self) -> Program:
        """Sensors, the run queue, run monitoring and retries."""
        return self._program("daemon", "dagster._daemon", "run", "--workspace", str(self.workspace), *self._log_format)

    def instance_command(self) -> list[str]:
        """Prepares Dagster's storage; run before anything uses it."""
        return [sys.executable, "-m", INSTANCE_MODULE]

    def is_instance_prepared(self) -> bool:
        """True where that was done before, by this version of Dagster."""
        try:
            return self._prepared.read_text() == version("dagster")
        except FileNotFoundError:
            return False

    def note_instance_prepared(self) -> None:
        """It was done: later starts need not spend seconds on it."""
        with replace_file(self._prepared) as temporary:
            temporary.write_text(version("dagster"))

    @property
    def _log_format(self) -> tuple[str, ...]:
        """What Dagster's programs are told of the format of logs."""
        return ("--log-format", "json") if self.settings.log_format == "json" else ()

    @property
    def _prepared(self) -> Path:
        # Beside the databases, so that whoever deletes them deletes it too.
        return self.dagster_home / "history" / ".prepared"

    def environment(self) -> dict[str, str]:
        """What every program of the stack finds in its environment: the settings, made absolute, and the marker."""
        settings = self.settings
        return dict(os.environ) | {
            "CLIP_PIPELINE_HOME": str(settings.home_path),
            "CLIP_PIPELINE_ROOTS": ":".join(str(folder) for folder in settings.root_folders),
            "CLIP_PIPELINE_WATCH": ":".join(str(folder) for folder in settings.watch_folders),
            "CLIP_PIPELINE_ENCODER": settings.encoder,
            "CLIP_PIPELINE_PORT": str(settings.port),
            "CLIP_PIPELINE_DAGSTER_PORT": str(settings.dagster_port),
            "CLIP_PIPELINE_LOG_FORMAT": settings.log_format,
            "DAGSTER_HOME": str(self.dagster_home),
            "PYTHONUNBUFFERED": "1",
            MARKER: str(settings.home_path),
        }

    def write_files(self) -> None:
        """`dagster.yaml` and `workspace.yaml` in Dagster's home."""
        with replace_file(self.dagster_home / "dagster.yaml") as temporary:
            temporary.write_bytes(instance_settings())
        with replace_file(self.workspace) as temporary:
            temporary.write_text(self._workspace_text())

    def _workspace_text(self) -> str:
        entry = "  - grpc_server:\n      host: {}\n      port: {}\n      location_name: {}\n"
        entries = [entry.format(LOOPBACK, self.code_ports[name], name) for name in CODE_LOCATIONS]
        return "# Written by `clip-pipeline up` at every start.\nload_from:\n" + "".join(entries)

    def _program(self, name: str, module: str, *arguments: str) -> Program:
        command = [sys.executable, "-m", module, *arguments]
        return Program(name, command, self.environment(), self.logs / f"{name}.log")


def instance_settings() -> bytes:
    """The content of dagster.yaml. The copy at the top of the repository is the same, which a test proves."""
    return (files("clip_pipeline.cli.stack") / "dagster.yaml").read_bytes()
