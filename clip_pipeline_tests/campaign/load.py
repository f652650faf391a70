"""The load: jobs of small pictures, submitted over REST one after the other, and what became of each."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx

from clip_pipeline_tests.e2e.stack import write_photos

ADD, STATUS = "/api/v1/index/add-images", "/api/v1/index/status"
COMPLETED = "completed"
FINAL = {COMPLETED, "failed", "canceled"}
_ANSWER_S = 10.0
_LOOK_EVERY_S = 0.25

Found = TypeVar("Found")


class Load:
    """Submits jobs of `size` pictures that nobody has seen before, the same for the same seed."""

    def __init__(self, url: str, folder: Path, *, size: int, seed: int) -> None:
        self._url, self._folder, self._size, self._seed = url, folder, size, seed
        self.submitted: list[str] = []
        self._http = httpx.Client(base_url=url, timeout=_ANSWER_S, trust_env=False)

    @property
    def images(self) -> int:
        """How many pictures were submitted in all."""
        return len(self.submitted) * self._size

    def prepare(self) -> Path:
        """The folder of the next job's pictures, which are drawn where they are not there yet."""
        number = len(self.submitted)
        folder = self._folder / f"{number:04d}"
        if not folder.exists():
            write_photos(folder, self._size, seed=self._seed * 10_000 + number)
        return folder

    def submit(self, *, timeout_s: float) -> str:
        """A job more; returns its id. Sent again under the same key until the service answers.

        Raises:
            TimeoutError: it did not answer in that time.
        """
        number, folder = len(self.submitted), self.prepare()
        body = {"image_paths": [str(path) for path in sorted(folder.iterdir())]}
        key = f"campaign-{self._seed}-{number}"

        def send() -> str | None:
            answer = self._ask("POST", ADD, json=body, headers={"Idempotency-Key": key})
            return None if answer is None else str(answer["job_id"])

        job_id = until(send, timeout_s=timeout_s, what=f"job {number} is accepted")
        self.submitted.append(job_id)
        return job_id

    def wait(self, job_id: str, *, timeout_s: float) -> dict[str, Any]:
        """As `ended`, once it has. Raises TimeoutError."""
        return until(lambda: self.ended(job_id), timeout_s=timeout_s, what=f"job {job_id} has ended")

    def ended(self, job_id: str) -> dict[str, Any] | None:
        """The status document of a job that ended, well or not; None where that is not known now."""
        answer = self._ask("GET", f"{STATUS}/{job_id}")
        return answer if answer is not None and answer["status"] in FINAL else None

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def fault_of(self, ended: dict[str, Any]) -> str | None:
        """What is wrong with a job that ended; None where every one of its pictures is indexed."""
        progress = ended["progress"]
        counts = (progress["total_images"], progress["processed_images"], progress["failed_images"])
        if ended["status"] == COMPLETED and counts == (self._size, self._size, 0):
            return None
        return f"job {ended['job_id']} ended as {ended['status']}, {counts} images (all, processed, failed): {ended}"

    def _ask(self, method: str, path: str, **content: Any) -> dict[str, Any] | None:
        """The answer, None where there is none for now."""
        try:
            answer = self._http.request(method, path, **content)
        except httpx.TransportError:
            return None
        if answer.status_code == httpx.codes.TOO_MANY_REQUESTS or answer.is_server_error:
            return None
        return answer.raise_for_status().json()


def until(look: Callable[[], Found | None], *, timeout_s: float, what: str) -> Found:
    """What `look` returns once it is something. Raises TimeoutError."""
    deadline = time.monotonic() + timeout_s
    while (found := look()) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_s:g} s: {what}")
        time.sleep(_LOOK_EVERY_S)
    return found
