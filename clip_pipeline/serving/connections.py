"""Connections that send no request, or never finish its headers: uvicorn would keep them for as long as they like."""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024
"""Of URL and headers together; the parser itself has no limit."""


class OversizedHeadError(Exception):
    """Raised into the parser, which then reports a malformed request: 400, and the end of the connection."""


class TimedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol; closes a connection whose first or next request takes too long to be asked.

    Between an answer and the first byte of the next request uvicorn's own timeout (`timeout_keep_alive`) holds.
    """

    header_timeout_s = 10.0
    _head_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first request is awaited from now on."""
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """A further request has begun, its headers are awaited."""
        super().on_message_begin()
        self._head_bytes = 0
        if self._head_timer is None:
            self._wait_for_head()

    def on_url(self, url: bytes) -> None:
        """Part of the URL is here."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header is here."""
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The request is asked; its body has a patience of its own."""
        self._stop_waiting()
        super().on_headers_complete()

    def _wait_for_head(self) -> None:
        self._head_timer = self.loop.call_later(self.header_timeout_s, self._close_unless_answering)

    def _close_unless_answering(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:  # a pipelined request waits its turn
            self._wait_for_head()
        else:
            self.transport.close()

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _count(self, length: int) -> None:
        self._head_bytes += length
        if self._head_bytes > MAX_HEAD_BYTES:
            raise OversizedHeadError


def timed_protocol(header_timeout_s: float) -> type[TimedProtocol]:
    """The protocol with this patience; uvicorn makes its instances itself and can be given a class only."""
    return type("ConfiguredProtocol", (TimedProtocol,), {"header_timeout_s": header_timeout_s})
