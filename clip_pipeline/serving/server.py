"""Serving over HTTP until told to stop."""

import gc
import logging
import signal
import socket
import threading

import uvicorn

from clip_pipeline.core.errors import ConfigurationError, StackError
from clip_pipeline.ledger.api_keys import list_keys, usable_keys
from clip_pipeline.ledger.database import open_ledger
from clip_pipeline.ledger.engines import ledger_file
from clip_pipeline.observability.logging import log_to_stderr
from clip_pipeline.serving.app import create_app
from clip_pipeline.serving.connections import timed_protocol
from clip_pipeline.serving.encoder_slot import LoadEncoder
from clip_pipeline.serving.hosts import is_loopback
from clip_pipeline.serving.sessions import open_sessions
from clip_pipeline.settings import Settings

logger = logging.getLogger(__name__)

GRACE_S = 10
"""Seconds that requests under way have to end once a stop was asked for."""


def serve(settings: Settings, *, load: LoadEncoder | None = None) -> None:
    """Serve at the configured address; returns after SIGTERM or SIGINT, requests under way answered.

    load: see `open_services`.

    Raises:
        ConfigurationError: the address is taken, or reachable from outside while no key is valid; a limit is malformed,
            or the secret of sessions too short.
        StoreError: the ledger cannot be opened, or the home can keep no secret of sessions.
        StackError: the service could not start for another reason; the log says which.
    """
    check_reach(settings)
    # Opened once beforehand: what is wrong is then this function's error, not a line in the log of the server.
    open_ledger(settings.ledger_location).close()
    open_sessions(settings)
    log_to_stderr(settings.log_format)
    app = create_app(settings, load=load)
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=GRACE_S,
        ws="websockets-sansio", ws_max_size=64 * 1024, http=timed_protocol(settings.header_timeout_s),
    )  # fmt: skip
    server = uvicorn.Server(config)
    # A stream of events never ends by itself: it has to hear that the server waits for it.
    app.state.is_stopping = lambda: server.should_exit
    if threading.current_thread() is threading.main_thread():
        # The server ends in good order on both signals, then raises them again; both now mean: return.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    with bind(settings.host, settings.port) as listener:
        logger.info("listening", extra={"host": settings.host, "port": listener.getsockname()[1]})
        # All modules are there and stay: a full collection that goes through them holds every request up for 170 ms.
        gc.collect()
        gc.freeze()
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:
            return
    if not server.started:
        raise StackError("the HTTP service did not start; the lines above in its log say why")


def check_reach(settings: Settings) -> None:
    """Raises ConfigurationError where others than this machine could reach a service that has no valid key."""
    if not is_loopback(settings.host) and not _has_valid_key(settings):
        raise ConfigurationError(
            f"the HTTP service would be reachable from outside at {settings.host}, and no key is valid: create one "
            "with `clip-pipeline keys create NAME`, or set CLIP_PIPELINE_HOST=127.0.0.1"
        )


def _has_valid_key(settings: Settings) -> bool:
    file = ledger_file(settings.ledger_location)
    if file is not None and not file.exists():  # a refused start leaves nothing behind
        return False
    ledger = open_ledger(settings.ledger_location)
    try:
        return bool(usable_keys(list_keys(ledger)))
    finally:
        ledger.close()


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens at the address; port 0 is any free one.

    Raises:
        ConfigurationError: the address is taken or is not one of this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen at {host}:{port} ({error.strerror}); stop what uses it, or set CLIP_PIPELINE_PORT"
        ) from error
