"""Clients that upload pictures for analysis, in a process of their own: `python -m benchmarks.analysis_load URL ...`.

Each client is a thread with one connection that stays open; it uploads a picture, waits for the result, and goes on
with the next. With `--burst` all is uploaded first and waited for afterwards. Every upload has another content, so no
vector is used twice. The answer is one JSON document on standard output. Not for people: `benchmarks.analysis` starts
it.
"""

import argparse
import http.client
import json
import os
import queue
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

LABELS = "cat,dog,flower,rocket,coffee,motorcycle,grass,temple,wall,face"
TIMEOUT_S = 120
_BOUNDARY = "a-line-that-no-picture-contains-7c1f"


@dataclass(slots=True)
class Tally:
    """What the clients met. latencies_ms: from before the upload until the result is there."""

    latencies_ms: list[float] = field(default_factory=list)
    upload_ms: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Upload:
    """A request that was taken in."""

    request_id: str
    started: float


class Client:
    """One connection."""

    def __init__(self, url: str, tally: Tally) -> None:
        self._connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=TIMEOUT_S)
        self._tally = tally

    def upload(self, picture: bytes) -> Upload:
        """Send a picture; eight bytes behind its end make it another file."""
        started = time.perf_counter()
        body = _form(picture + os.urandom(8))
        headers = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
        status, document = self._ask("POST", "/analyze-image", body, headers)
        if status != http.client.ACCEPTED:
            raise OSError(f"the upload was answered with {status}: {document}")
        self._tally.upload_ms.append(1000 * (time.perf_counter() - started))
        return Upload(document["request_id"], started)

    def wait(self, upload: Upload) -> None:
        """Until the result is there."""
        path = f"/result/{upload.request_id}?wait=30"
        status, document = self._ask("GET", path)
        while status == http.client.ACCEPTED:
            status, document = self._ask("GET", path)
        if status != http.client.OK or len(document["predictions"]) != LABELS.count(",") + 1:
            self._tally.failures.append(f"{status}: {document}")
        else:
            self._tally.latencies_ms.append(1000 * (time.perf_counter() - upload.started))

    def _ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        self._connection.request(method, path, body, headers or {})
        response = self._connection.getresponse()
        return response.status, json.loads(response.read())


def main() -> None:
    """Upload so many pictures, print what that was like."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.analysis_load", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("pictures", type=Path, help="a folder of JPEG files")
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--burst", action="store_true")
    arguments = parser.parse_args()
    pictures = [path.read_bytes() for path in sorted(arguments.pictures.glob("*.jpg"))]
    turns: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    for number in range(arguments.requests):
        turns.put(pictures[number % len(pictures)])
    work = _upload_all_then_wait if arguments.burst else _upload_and_wait
    tallies, seconds = _load(arguments.url, turns, work, clients=arguments.clients)
    sys.stdout.write(json.dumps(_joined(tallies) | {"seconds": seconds}))


def _load(
    url: str,
    turns: "queue.SimpleQueue[bytes]",
    work: Callable[[Client, "queue.SimpleQueue[bytes]"], None],
    *,
    clients: int,
) -> tuple[list[Tally], float]:
    tallies = [Tally() for _ in range(clients)]

    def run(tally: Tally) -> None:
        try:
            work(Client(url, tally), turns)
        except (OSError, http.client.HTTPException) as error:
            tally.failures.append(repr(error))

    threads = [threading.Thread(target=run, args=(tally,)) for tally in tallies]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return tallies, time.perf_counter() - began


def _upload_and_wait(client: Client, turns: "queue.SimpleQueue[bytes]") -> None:
    while (picture := _next(turns)) is not None:
        client.wait(client.upload(picture))


def _upload_all_then_wait(client: Client, turns: "queue.SimpleQueue[bytes]") -> None:
    uploads: list[Upload] = []
    while (picture := _next(turns)) is not None:
        uploads.append(client.upload(picture))
    for upload in uploads:
        client.wait(upload)


def _next(turns: "queue.SimpleQueue[bytes]") -> bytes | None:
    try:
        return turns.get_nowait()
    except queue.Empty:
        return None


def _form(picture: bytes) -> bytes:
    line = f"--{_BOUNDARY}\r\nContent-Disposition: form-data; name="
    labels = f'{line}"labels"\r\n\r\n{LABELS}\r\n'
    file = f'{line}"file"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    return labels.encode() + file.encode() + picture + f"\r\n--{_BOUNDARY}--\r\n".encode()


def _joined(tallies: Sequence[Tally]) -> dict[str, object]:
    together = Tally()
    for tally in tallies:
        together.latencies_ms += tally.latencies_ms
        together.upload_ms += tally.upload_ms
        together.failures += tally.failures
    return asdict(together)


if __name__ == "__main__":
    main()
