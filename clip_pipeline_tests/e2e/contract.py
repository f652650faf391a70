"""A story told to a real stack over HTTP: every answer is kept, so that each test of the contract looks at its part."""

import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import schemathesis
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from clip_pipeline_tests.e2e.stack import Stack

ADD = "/api/v1/index/add-images"
STATUS = "/api/v1/index/status"
FINAL = {"completed", "failed", "canceled"}
PATIENCE_S = 240
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


class Conversation:
    """A client whose every answer must be what the OpenAPI schema of the service says, kept under a name."""

    def __init__(self, url: str) -> None:
        self.client = httpx.Client(base_url=url, timeout=60, trust_env=False)
        self.answers: dict[str, httpx.Response] = {}
        self._schema = schemathesis.openapi.from_url(f"{url}/openapi.json")

    def ask(self, name: str, method: str, path: str, **options: Any) -> httpx.Response:
        answer = self.client.request(method, path, **options)
        answer.request.read()
        self.answers[name] = answer
        self._validate(answer)
        return answer

    def get(self, path: str, /, **parameters: Any) -> Any:
        return self.ask(path, "GET", path, params=parameters).json()

    def document(self, name: str) -> Any:
        return self.answers[name].json()

    def add(self, name: str, *paths: Path, headers: Mapping[str, str] | None = None, **fields: Any) -> Any:
        body = {"image_paths": [str(path) for path in paths]} | fields
        return self.ask(name, "POST", ADD, json=body, headers=headers).json()

    def wait(self, job_id: str) -> Any:
        deadline = time.monotonic() + PATIENCE_S
        while (status := self.get(f"{STATUS}/{job_id}"))["status"] not in FINAL:
            assert time.monotonic() < deadline, status
            time.sleep(0.3)
        return status

    def _validate(self, answer: httpx.Response) -> None:
        for path in self._schema:
            if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", path), answer.request.url.path):
                self._schema[path][answer.request.method].validate_response(answer)
                return


class SocketListener(threading.Thread):
    """Everything that the WebSocket of a job, or of a request, says until it is closed, and how it was closed."""

    def __init__(self, url: str, key: str, *, topic: str = "jobs") -> None:
        super().__init__(daemon=True)
        self.heard: list[Any] = []
        self.close_code: int | None = None
        self._socket = connect(f"{url.replace('http', 'ws', 1)}/ws/{topic}/{key}", proxy=None)
        self.headers = self._socket.response.headers if self._socket.response else {}
        self.start()

    def run(self) -> None:
        with self._socket as socket:
            with suppress(ConnectionClosed):
                while True:
                    self.heard.append(json.loads(socket.recv(timeout=PATIENCE_S)))
            self.close_code = socket.close_code


class EventListener(threading.Thread):
    """The events of one kind of `GET /events`, as (id, document), until each of some jobs or requests is at its end.

    kind: `job` or `analysis`; `field` is where their documents carry the id.
    """

    def __init__(
        self, url: str, *, until: Sequence[str], last: str | None = None, kind: str = "job", field: str = "job_id"
    ) -> None:
        super().__init__(daemon=True)
        self._kind, self._field = kind, field
        self.heard: list[tuple[str, Any]] = []
        self.content_type = ""
        self._url, self._until, self._last = url, set(until), last
        self._is_open = threading.Event()
        self.start()
        assert self._is_open.wait(60)

    def run(self) -> None:
        headers = {} if self._last is None else {"Last-Event-ID": self._last}
        with httpx.stream("GET", f"{self._url}/events", headers=headers, timeout=60, trust_env=False) as response:
            self.content_type = response.headers["content-type"]
            for frame in frames(response):
                self._is_open.set()
                if frame.get("event") == self._kind:
                    document = json.loads(frame["data"])
                    self.heard.append((frame["id"], document))
                    if document["status"] in FINAL:
                        self._until.discard(document[self._field])
                if not self._until:
                    return


def frames(response: httpx.Response) -> Iterator[dict[str, str]]:
    """The frames of an event stream, one dictionary each."""
    frame: dict[str, str] = {}
    for line in response.iter_lines():
        if not line:
            yield frame
            frame = {}
            continue
        name, _, value = line.partition(":")
        frame[name] = value.strip()


class Story:
    """What happened, in order. `jobs`: the id of each job by the name of the answer that opened it.

    All is submitted with one priority: then one batch, and so one run of each step, serves whatever waits together.
    """

    def __init__(self, stack: Stack, folder: Path, photos: Mapping[str, Path]) -> None:
        self.stack, self.folder, self.photos = stack, folder, photos
        self.talk = Conversation(stack.url)
        self.jobs: dict[str, str] = {}
        self.final: dict[str, Any] = {}

    def tell(self) -> None:
        """Everything, to its end."""
        self._ask_the_empty_index()
        self._submit()
        self._submit_twins()
        self._cancel()
        self._await("submitted", "twin 0", "twin 1", "twin 2")
        self._change_the_world()
        self._await("retried", "mixed")
        self.follower_told = self.follower.communicate(timeout=PATIENCE_S)[0]
        for listener in (self.socket, self.events):
            listener.join(timeout=60)

    def path(self, name: str) -> Path:
        return self.folder / name

    def _put(self, *names: str) -> list[Path]:
        for name in names:
            shutil.copy(self.photos[name.partition(".")[0]], self.path(name))
        return [self.path(name) for name in names]

    def _await(self, *names: str) -> None:
        self.final |= {name: self.talk.wait(self.jobs[name]) for name in names}

    def _ask_the_empty_index(self) -> None:
        self.talk.ask("empty stats", "GET", "/api/v1/index/stats")
        self.talk.ask("empty status", "GET", STATUS)
        self.talk.ask("empty search", "GET", "/api/v1/search", params={"q": "a cat"})

    def _submit(self) -> None:
        """Nine files: six photographs, a copy of one, one cut short, one that is not there. One is named twice."""
        good = self._put(
            "astronaut.jpg", "cat.jpg", "coffee.png", "rocket_launch.jpg", "moon.tif", "dahlia_flower.webp"
        )
        shutil.copy(self.path("cat.jpg"), self.path("copy of cat.jpg"))
        self.path("cut.jpg").write_bytes(self.photos["retina"].read_bytes()[:20_000])
        named = [*good, *(self.path(name) for name in ("copy of cat.jpg", "cut.jpg", "gone.jpg", "cat.jpg"))]
        headers = {"Idempotency-Key": "order-1", "X-Request-ID": "contract-1"}
        self.jobs["submitted"] = self.talk.add("submitted", *named, headers=headers, priority=5)["job_id"]
        url, job_id = self.stack.url, self.jobs["submitted"]
        self.events, self.socket = EventListener(url, until=[job_id]), SocketListener(url, job_id)
        command = [
            sys.executable,
            EXAMPLES / "graphql_follow_job.py",
            job_id,
            self.stack.graphql_url[: -len("/graphql")],
        ]
        self.follower = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.talk.ask("first status", "GET", f"{STATUS}/{job_id}")
        self.talk.add("submitted again", *named, headers=headers, priority=5)
        self.talk.add("another body", *named[:1], headers=headers)
        self.talk.add("refused", named[0], Path("relative.jpg"), Path("/etc/passwd"), self.path("../up.jpg"))

    def _submit_twins(self) -> None:
        """The same request twice at the same moment, then once more under the key of a third that came with them."""
        names = self._put("motorcycle_left.jpg", "motorcycle_right.webp", "retina.jpg", "chinese_temple.jpg")
        together = threading.Barrier(3)

        def send(number: int) -> None:
            together.wait()
            headers = {"Idempotency-Key": "twins"} if number == 2 else None
            self.talk.add(f"twin {number}", *names, headers=headers, priority=5)

        with ThreadPoolExecutor(3) as pool:
            list(pool.map(send, range(3)))
        self.talk.add("twin 2 again", *names, headers={"Idempotency-Key": "twins"}, priority=5)
        self.jobs |= {f"twin {n}": self.talk.document(f"twin {n}")["job_id"] for n in range(3)}

    def _cancel(self) -> None:
        self.jobs["canceled"] = self.talk.add("to be canceled", *self._put("coins.png"))["job_id"]
        for name in ("canceled", "canceled again"):
            self.talk.ask(name, "DELETE", f"/api/v1/index/jobs/{self.jobs['canceled']}")
        self.talk.ask("overall while busy", "GET", STATUS)

    def _change_the_world(self) -> None:
        """The missing file comes, one file changes, one is removed; known ones are named again."""
        submitted = self.jobs["submitted"]
        self.talk.ask("cancel completed", "DELETE", f"/api/v1/index/jobs/{submitted}")
        shutil.copy(self.photos["grass"], self.path("gone.jpg"))
        shutil.copy(self.photos["text_on_paper"], self.path("coffee.png"))
        self.talk.ask("retried", "POST", f"/api/v1/index/jobs/{submitted}/retry")
        known = [self.path("cat.jpg"), self.path("moon.tif")]
        (self.folder / "albums" / "2025").mkdir(parents=True)
        shutil.copy(self.photos["brick_wall"], self.folder / "albums" / "2025" / "brick_wall.png")
        albums = [str(self.folder / "albums")]
        self.talk.add("mixed", self.path("coffee.png"), *known, recursive_dirs=albums, priority=5)
        self.talk.add("all known", *known)
        self.jobs |= {name: self.talk.document(name)["job_id"] for name in ("retried", "mixed", "all known")}
        body = {"image_paths": [str(self.path("dahlia_flower.webp")), str(self.path("never.jpg"))]}
        self.talk.ask("removed", "DELETE", "/api/v1/index/images", json=body)
        self.talk.ask("search after removal", "GET", "/api/v1/search", params={"q": "a flower", "k": 100})
