"""Every setting of the project, in one place: read from `CLIP_PIPELINE_*` variables when `Settings()` is called."""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from clip_pipeline.core.limits import ImageLimits
from clip_pipeline.core.store import Store

_LIMITS = ImageLimits()


class Settings(BaseSettings):
    """One field a variable: `home` is `CLIP_PIPELINE_HOME`. Folder lists are separated by colons, as in PATH."""

    model_config = SettingsConfigDict(env_prefix="CLIP_PIPELINE_", frozen=True, extra="ignore")

    home: Path = Field(default=Path(".clip_pipeline"), description="folder of all state: ledger, store, Dagster, logs")
    roots: str = Field(default="", description="folders below which images may be registered, separated by colons")
    watch: str = Field(default="", description="folders that the watched_folders sensor scans, separated by colons")
    watch_ignore: str = Field(
        default=".*:*~:*.tmp:*.part:*.partial:*.crdownload:Thumbs.db:desktop.ini:*.xmp:*.aae",
        description="file and folder names that a scan passes over: glob patterns separated by colons",
    )
    ledger_url: str = Field(default="", description="SQLAlchemy URL of the ledger; empty: SQLite below the home")
    encoder: str = Field(
        default="auto", description="auto, builtin, a Hugging Face model id or a local model directory"
    )
    device: str = Field(default="auto", description="auto (CUDA where there is one, else CPU), cpu, cuda or cuda:N")
    backend: Literal["auto", "torch", "openvino"] = Field(
        default="auto",
        description="what computes on a CPU: auto (OpenVINO where it is installed, else torch), torch or openvino",
    )
    forward_batch: int = Field(default=32, ge=1, description="images of one forward pass; halved when memory runs out")
    decode_workers: int = Field(default=0, ge=0, description="processes that decode images; 0: one for each core")
    batch_size: int = Field(default=10_000, ge=1, description="images of one batch, that is of one Dagster partition")
    max_image_bytes: int = Field(default=_LIMITS.max_bytes, ge=1, description="largest image file, in bytes")
    max_image_pixels: int = Field(default=_LIMITS.max_pixels, ge=1, description="largest width x height, in pixels")
    decode_timeout_s: float = Field(default=_LIMITS.timeout_s, gt=0, description="seconds to read and decode one image")
    analysis_batch: int = Field(default=16, ge=1, description="uploads of one micro-batch of the analysis lane")
    analysis_idle_s: float = Field(
        default=60.0, gt=0, description="seconds without an upload after which an analysis run ends"
    )
    analysis_runs: int = Field(
        default=1,
        ge=1,
        description="analysis runs at once while many uploads wait; the pool `analysis` is a limit too",
    )
    analysis_timeout_s: float = Field(default=10.0, gt=0, description="seconds to read and decode one upload")
    analysis_keep_days: float = Field(
        default=30.0, gt=0, description="days after which finished analysis requests and their uploads are removed"
    )
    maintenance_after_hours: float = Field(
        default=24.0, ge=0, description="hours that a batch or file must be left alone before maintenance touches it"
    )
    host: str = Field(default="127.0.0.1", description="address that the HTTP service binds to")
    port: int = Field(default=8000, ge=0, le=65535, description="port of the HTTP service")
    rate_limit: str = Field(
        default="6000/minute",
        description="requests of one key in a time; where a key is missing or wrong, of one address",
    )
    rate_limit_local: str = Field(
        default="60000/minute", description="requests of this machine in a time while no key exists"
    )
    rate_limit_storage: str = Field(
        default="memory://",
        repr=False,
        description="where requests are counted: memory://, or redis://host:6379/0 for several services together",
    )
    max_body_bytes: int = Field(default=64 * 1024**2, ge=1, description="largest body of a request, in bytes")
    max_upload_bytes: int = Field(default=64 * 1024**2, ge=1, description="largest upload (multipart), in bytes")
    body_timeout_s: float = Field(default=30.0, gt=0, description="seconds for each 1024 bytes of a body to arrive")
    header_timeout_s: float = Field(
        default=10.0, gt=0, description="seconds for the headers of a request to arrive, from connecting on"
    )
    kafka_bootstrap: str = Field(
        default="", description="host:port of Kafka brokers, separated by commas; empty: no Kafka"
    )
    kafka_group: str = Field(default="clip-pipeline", description="consumer group that reads the uploads")
    kafka_topic_uploads: str = Field(default="image-uploads", description="topic that uploads are read from")
    kafka_topic_results: str = Field(default="analysis-results", description="topic that results are written to")
    kafka_topic_dlq: str = Field(
        default="image-uploads-dlq", description="topic that messages go to which can never become a request"
    )
    kafka_max_backlog: int = Field(
        default=10_000, ge=1, description="waiting requests beyond which no upload is read from Kafka"
    )
    kafka_config: str = Field(
        default="", description="properties file with more options of librdkafka, such as those for TLS and passwords"
    )
    api_key: str = Field(default="", repr=False, description="key that the command line sends to the HTTP service")
    session_secret: SecretStr = Field(
        default=SecretStr(""),
        description="secret that signs the sessions of the pages, at least 32 bytes, the same for every service behind "
        "one address; empty: made once and kept in the home",
    )
    dagster_port: int = Field(default=3000, ge=0, le=65535, description="port of the Dagster UI and GraphQL API")
    fleet: str = Field(
        default="",
        description="YAML file of the workers of a code location; empty: runs start on the location's own server",
    )
    dagster_url: str = Field(
        default="", description="address of the Dagster webserver that is asked; empty: this machine's, at its port"
    )
    dagster_public_url: str = Field(
        default="", description="address of the Dagster UI that links lead to; empty: that of the webserver asked"
    )
    log_format: Literal["console", "json"] = Field(
        default="console", description="console: lines for people; json: one JSON object a line, in every process"
    )
    alert_webhook: SecretStr = Field(
        default=SecretStr(""),
        description="URL that is told of runs that failed for good, as Slack's incoming webhooks are; empty: nobody is",
    )

    @property
    def home_path(self) -> Path:
        """The home as an absolute path."""
        return self.home.expanduser().absolute()

    @property
    def fleet_path(self) -> Path | None:
        """The fleet file as an absolute path, None where there is no fleet."""
        return Path(self.fleet).expanduser().absolute() if self.fleet else None

    @property
    def store(self) -> Store:
        """The store below the home."""
        return Store(self.home_path / "store")

    @property
    def ledger_location(self) -> str:
        """The URL of the ledger: the one that was set, or SQLite below the home."""
        return self.ledger_url or f"sqlite:///{self.home_path / 'ledger.sqlite3'}"

    @property
    def image_limits(self) -> ImageLimits:
        """What one image may cost."""
        return ImageLimits(self.max_image_bytes, self.max_image_pixels, self.decode_timeout_s)

    @property
    def upload_limits(self) -> ImageLimits:
        """What one upload may cost: somebody waits for it, and others behind it."""
        return ImageLimits(self.max_image_bytes, self.max_image_pixels, self.analysis_timeout_s)

    @property
    def watch_folders(self) -> tuple[Path, ...]:
        """The watched folders, absolute, in the order given."""
        return _folders(self.watch)

    @property
    def root_folders(self) -> tuple[Path, ...]:
        """The allowed roots: those configured and every watched folder."""
        return tuple(dict.fromkeys((*_folders(self.roots), *self.watch_folders)))

    @property
    def ignore_patterns(self) -> tuple[str, ...]:
        """The glob patterns of names that a scan passes over."""
        return tuple(part for part in self.watch_ignore.split(":") if part)


def _folders(text: str) -> tuple[Path, ...]:
    return tuple(Path(os.path.abspath(os.path.expanduser(part))) for part in text.split(":") if part)
