"""Clients that search without a pause, in a process of their own: `python -m benchmarks.search_load URL ...`.

Each client is a thread with one connection that stays open, and asks its next question when it has its answer. What it
asks are distinct lines of standard input. The answer is one JSON document on standard output. Not for people:
`benchmarks.search_http` starts it.
"""

import argparse
import http.client
import json
import queue
import re
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

TIMEOUT_S = 60
_PART = re.compile(r"(\w+);dur=([\d.]+)")


@dataclass(slots=True)
class Tally:
    """What one client met. spent_ms: by part of the service, as its `Server-Timing` headers say."""

    latencies_ms: list[float] = field(default_factory=list)
    spent_ms: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    releases: list[str] = field(default_factory=list)
    went_back: int = 0

    def count(self, latency_ms: float, header: str, release: str) -> None:
        """One good answer."""
        self.latencies_ms.append(latency_ms)
        for part, spent in _PART.findall(header):
            self.spent_ms[part] = self.spent_ms.get(part, 0.0) + float(spent)
        if not self.releases or release != self.releases[-1]:
            self.went_back += bool(self.releases) and release < self.releases[-1]
            self.releases.append(release)


def main() -> None:
    """Search for some seconds, print what that was like."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search_load", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--while-exists", type=Path, metavar="FILE", help="go on for longer, until this file is gone")
    arguments = parser.parse_args()
    questions: queue.SimpleQueue[str] = queue.SimpleQueue()
    for line in sys.stdin:
        questions.put(line.strip())
    sys.stdout.write(json.dumps(_load(arguments, questions)))


def _load(arguments: argparse.Namespace, questions: "queue.SimpleQueue[str]") -> dict[str, object]:
    tallies = [Tally() for _ in range(arguments.clients)]
    began = time.monotonic()
    until, marker = began + arguments.seconds, arguments.while_exists

    def is_over() -> bool:
        return time.monotonic() >= until and not (marker and marker.exists())

    threads = [
        threading.Thread(target=_search_on, args=(arguments.url, questions, tally), kwargs={"is_over": is_over})
        for tally in tallies
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"seconds": time.monotonic() - began, "clients": [asdict(tally) for tally in tallies]}


def _search_on(url: str, questions: "queue.SimpleQueue[str]", tally: Tally, *, is_over: Callable[[], bool]) -> None:
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=TIMEOUT_S)
    for question in _taken(questions, is_over):
        started = time.perf_counter()
        try:
            connection.request("GET", "/api/v1/search?" + urllib.parse.urlencode({"q": question, "k": 10}))
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            tally.failures.append(repr(error))
            connection.close()  # the next request opens another one
            continue
        took_ms = 1000 * (time.perf_counter() - started)
        document = json.loads(content)
        if response.status != http.client.OK or len(document["results"]) != 10:
            tally.failures.append(f"{response.status}: {content[:200]!r}")
        else:
            tally.count(took_ms, response.headers.get("Server-Timing", ""), document["index_release"])
    connection.close()


def _taken(questions: "queue.SimpleQueue[str]", is_over: Callable[[], bool]) -> Iterator[str]:
    while not is_over():
        try:
            yield questions.get_nowait()
        except queue.Empty:
            raise SystemExit("the questions ran out before the time did; the load was not what it should be") from None


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


if __name__ == "__main__":
    main()
