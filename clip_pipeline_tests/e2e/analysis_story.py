"""Uploads to the analysis service of a real stack, and labels of its collection, told once; the answers are kept."""

import random
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from clip_pipeline_tests.e2e.contract import Conversation, EventListener, SocketListener
from clip_pipeline_tests.e2e.stack import Stack

LABELS = (
    "cat", "dog", "horse", "cup of coffee", "rocket", "motorcycle", "airplane", "tree", "piano", "bowl of soup"
)  # fmt: skip
NAMED = {"cat": "cat", "coffee": "cup of coffee", "rocket_launch": "rocket", "motorcycle_left": "motorcycle"}
"""Photographs that the built-in encoder can name -> their label."""
INDEXED = (*NAMED, "retina", "dahlia_flower")
PATIENCE_S = 180.0


class AnalysisStory:
    """What happened, in order. `ids`: the request id of each upload by the name of the answer that took it in."""

    def __init__(self, stack: Stack, photos: Mapping[str, Path], folder: Path) -> None:
        self.stack, self.photos, self.folder = stack, photos, folder
        self.talk = Conversation(stack.url)
        self.ids: dict[str, str] = {}
        self.results: dict[str, Any] = {}
        self.collection: dict[int, Any] = {}

    def tell(self) -> None:
        """Everything, to its end."""
        self._use_things()
        self._upload()
        self._be_refused()
        self._index()
        self._change_the_labels()
        self._upload_what_is_indexed()

    def post(self, name: str, photo: str | bytes, **fields: Any) -> None:
        """Upload a photograph, or bytes, as the answer `name`."""
        content = photo if isinstance(photo, bytes) else self.photos[photo].read_bytes()
        filename = "upload.jpg" if isinstance(photo, bytes) else self.photos[photo].name
        headers = fields.pop("headers", None)
        answer = self.talk.ask(
            name, "POST", "/analyze-image", files={"file": (filename, content)}, data=fields, headers=headers
        )
        if answer.status_code == 202:
            self.ids[name] = answer.json()["request_id"]

    def result(self, name: str) -> Any:
        """The result once it is there, or the problem of a request that failed."""
        deadline = time.monotonic() + PATIENCE_S
        path = f"/result/{self.ids[name]}"
        while (answer := self.talk.ask(f"result of {name}", "GET", path, params={"wait": 5})).status_code == 202:
            assert time.monotonic() < deadline, answer.text
        self.results[name] = answer.json()
        return self.results[name]

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for it."""
        self.stack.wait(condition, what, PATIENCE_S)

    def _use_things(self) -> None:
        """Before anything is indexed, so that the large default set is never embedded."""
        self.talk.ask("empty stats", "GET", "/stats")
        self.talk.ask("things", "POST", "/api/v1/label-sets", json={"name": "things", "labels": list(LABELS)})
        self.talk.ask("use things", "POST", "/api/v1/label-sets/things/use")

    def _upload(self) -> None:
        asked = {"labels": ",".join(LABELS), "headers": {"Idempotency-Key": "one cat"}}
        self.post("cat", "cat", **asked)
        self.socket = SocketListener(self.stack.url, self.ids["cat"], topic="analysis")
        self.events = EventListener(self.stack.url, until=[self.ids["cat"]], kind="analysis", field="request_id")
        self.talk.ask("early result", "GET", f"/result/{self.ids['cat']}")
        self.post("cat again", "cat", **asked)
        self.post("another under its key", "coffee", **asked)
        self.post("coffee", "coffee", labels=list(LABELS), top_k=3)  # the field repeated
        self.post("rocket_launch", "rocket_launch", labels=",".join(LABELS), top_k=1_000)
        self.post("motorcycle_left", "motorcycle_left")  # the label set in use
        self.post("one label", "cat", labels="cat")
        self.post("doubled", "cat", labels="cat, 猫,cat , кошка")
        cut = self.photos["retina"].read_bytes()
        self.post("cut short", cut[: len(cut) // 2], labels="eye,moon")
        self.talk.ask("busy stats", "GET", "/stats")
        for name in self.ids:
            self.result(name)
        for listener in (self.socket, self.events):
            listener.join(timeout=60)
        for name in ("cat", "cut short"):
            self.talk.ask(f"status of {name}", "GET", f"/status/{self.ids[name]}")
        self.talk.ask("stats", "GET", "/stats")
        self.talk.ask("history", "GET", "/api/v1/analyses")
        self.post("deleted", "cat", labels="cat,dog")
        for name in ("delete", "delete again"):
            self.talk.ask(name, "DELETE", f"/result/{self.ids['deleted']}")

    def _be_refused(self) -> None:
        unknown = "00000000-0000-4000-8000-000000000000"
        for kind in ("status", "result"):
            self.talk.ask(f"unknown {kind}", "GET", f"/{kind}/{unknown}")
        noise = random.Random(1).randbytes(3_000)
        self.post("text", b"This is no picture.\n", labels="cat")
        self.post("noise", noise)
        self.post("top_k 0", "cat", top_k=0)
        self.post("no label", "cat", labels=" , ")
        self.post("control character", "cat", labels="cat,\x07dog")
        self.post("too many labels", "cat", labels=",".join(f"label {i}" for i in range(5_001)))
        self.talk.ask("no file", "POST", "/analyze-image", data={"labels": "cat"})
        self.talk.ask("wrong field", "POST", "/analyze-image", files={"picture": ("a.jpg", noise)})

    def _index(self) -> None:
        paths = [Path(shutil.copy(self.photos[name], self.folder)) for name in INDEXED]
        job = self.talk.add("indexed", *paths)["job_id"]
        assert self.talk.wait(job)["progress"]["failed_images"] == 0
        self._keep_labels(1)

    def _change_the_labels(self) -> None:
        """The files are gone by then: what is scored again are stored vectors."""
        shutil.rmtree(self.folder)
        labels = [*LABELS, "eye", "dahlia"]
        self.talk.ask("things 2", "POST", "/api/v1/label-sets", json={"name": "things", "labels": labels})
        self.talk.ask("use things 2", "POST", "/api/v1/label-sets/things/use", json={"version": 2})
        self._keep_labels(2)

    def _keep_labels(self, version: int) -> None:
        def are_labelled() -> bool:
            document = self.talk.get("/api/v1/labels")
            is_new = document["label_set"] == {"name": "things", "version": version}
            return is_new and document["labelled_images"] == len(INDEXED)

        self.until(are_labelled, f"the collection is labelled by version {version}")
        self.collection[version] = self.talk.get("/api/v1/labels")

    def _upload_what_is_indexed(self) -> None:
        self.post("indexed before", "dahlia_flower", labels="flower,car")
        self.result("indexed before")
