"""A webhook for tests: a real HTTP server that keeps what it is told and answers as it is bidden."""

import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Webhook:
    """statuses: what the next posts are answered with, 200 once they are used up. told: the documents received."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.told: list[dict[str, Any]] = []
        self.asked = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/services/T0/B0/secret"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                webhook.asked += 1
                status = webhook.statuses.pop(0) if webhook.statuses else 200
                if status == 200:
                    assert self.headers["Content-Type"] == "application/json"
                    webhook.told.append(json.loads(body))
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler


@contextmanager
def open_webhook() -> Generator[Webhook, None, None]:
    """A webhook that is closed afterwards."""
    webhook = Webhook()
    try:
        yield webhook
    finally:
        webhook.close()
