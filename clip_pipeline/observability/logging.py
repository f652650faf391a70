"""Structured logging: what this process and its libraries log, one line an event, for people or as JSON.

Modules log as ever: `logging.getLogger(__name__)`, a constant message, values in `extra`. Ids that belong to whatever
is going on (request, job, batch, run) are bound once with `structlog.contextvars.bound_contextvars`, and are on every
line that the same context logs.
"""

import logging
import re
import sys
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Literal, TextIO, TypeAlias

import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, Processor, WrappedLogger

LogFormat: TypeAlias = Literal["console", "json"]

FRAMES_SHOWN = 30
HIDDEN = "***"
_SECRETS = re.compile(
    r"(?P<key>\bclip_[0-9a-f]+_)[0-9a-f]{16,}"  # an API key: its id may be seen
    r"|(?P<address>\b[a-z][a-z0-9+.-]*://[^\s:/@\"]*:)[^\s@/\"]+(?=@)"  # the password in an address
)
_CHATTY = ("alembic", "httpx", "httpcore")


def log_to_stderr(log_format: LogFormat = "json", level: int = logging.INFO) -> None:
    """Send the records of this process, from `level` on, to standard error; warnings and fatal errors among them."""
    handler = _ToStandardError()
    handler.setFormatter(line_formatter(log_format))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    for chatty in _CHATTY:
        logging.getLogger(chatty).setLevel(logging.WARNING)
    if log_format == "json":
        sys.excepthook = _log_uncaught
        threading.excepthook = _log_uncaught_in_thread


class _ToStandardError(logging.StreamHandler[TextIO]):
    """Writes to what is standard error by then: whoever captures it puts another in its place, and closes that."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        self.stream = sys.stderr
        super().emit(record)


def line_formatter(log_format: LogFormat, *, first: Sequence[Processor] = ()) -> logging.Formatter:
    """A record as one line: `timestamp` (UTC), `level`, `logger`, `event`, bound ids, its extra fields, `exception`.

    first: processors that see each event before all others do.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.ExtraAdder(),
        *first,
    ]
    rendering = _for_people() if log_format == "console" else _as_json()
    return ProcessorFormatter(
        foreign_pre_chain=shared, processors=[ProcessorFormatter.remove_processors_meta, *rendering]
    )


def _as_json() -> list[Processor]:
    # Without the values of variables: a secret may be among them.
    exceptions = ExceptionDictTransformer(show_locals=False, max_frames=FRAMES_SHOWN)
    rendered = structlog.processors.JSONRenderer(default=str)
    return [structlog.processors.ExceptionRenderer(exceptions), rendered, hide_secrets]


def _for_people() -> list[Processor]:
    renderer = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback, pad_event_to=0
    )
    return [renderer, hide_secrets]


def hide_secrets(_logger: WrappedLogger, _method: str, line: str | EventDict) -> str:
    """A line without API keys and passwords: a last resort, since nobody should have logged them."""
    return _SECRETS.sub(lambda found: f"{found['key'] or found['address']}{HIDDEN}", str(line))


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    logging.getLogger("clip_pipeline").critical("uncaught exception", exc_info=(kind, error, trace))


def _log_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is None or issubclass(args.exc_type, SystemExit):
        return
    fields = {"in_thread": None if args.thread is None else args.thread.name}
    error = (args.exc_type, args.exc_value, args.exc_traceback)
    logging.getLogger("clip_pipeline").error("uncaught exception in a thread", exc_info=error, extra=fields)
