"""A job over REST while every part of the stack is SIGKILLed in turn: the client sees one job that completes."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from clip_pipeline_tests.e2e.stack import Stack, write_photos
from clip_pipeline_tests.poison import write_poison

IMAGES, POISON = 2_000, 40
ROUNDS = 2
PARTS = {
    "api": "clip_pipeline.cli.main api",
    "daemon": "dagster._daemon run",
    "control": "--location-name control",
    "gpu": "--location-name gpu",
}
ADD, STATUS = "/api/v1/index/add-images", "/api/v1/index/status"


class Watcher(threading.Thread):
    """A client that asks for the status of a job again and again. A connection that fails is its daily bread."""

    def __init__(self, url: str, job_id: str) -> None:
        super().__init__(daemon=True)
        self.answers: list[dict[str, Any]] = []
        self.faults: list[str] = []
        self.lost_connections = 0
        self._path = f"{url}{STATUS}/{job_id}"
        self._is_over = threading.Event()
        self.start()

    def run(self) -> None:
        with httpx.Client(timeout=30, trust_env=False) as client:
            while not self._is_over.wait(0.2):
                try:
                    answer = client.get(self._path)
                except httpx.TransportError:
                    self.lost_connections += 1
                    continue
                if answer.status_code == 200:
                    self.answers.append(answer.json())
                else:
                    self.faults.append(f"{answer.status_code}: {answer.text}")

    def stop(self) -> None:
        self._is_over.set()
        self.join(timeout=60)

    @property
    def status(self) -> str:
        return self.answers[-1]["status"] if self.answers else "queued"

    @property
    def processed(self) -> int:
        return self.answers[-1]["progress"]["processed_images"] if self.answers else 0


def part(stack: Stack, name: str) -> psutil.Process | None:
    """The process of one part, None where it does not run."""
    for process in stack.processes():
        try:
            if PARTS[name] in " ".join(process.cmdline()):
                return process
        except psutil.NoSuchProcess:
            continue
    return None


def kill(stack: Stack, name: str) -> None:
    """SIGKILL one part once it runs."""
    stack.wait(lambda: part(stack, name) is not None, f"{name} runs", 60)
    victim = part(stack, name)
    assert victim is not None
    victim.kill()


def submit(stack: Stack, paths: list[str]) -> dict[str, Any]:
    """Submit under one key until there is an answer; the service is killed while it works on the first request."""
    answers: list[httpx.Response] = []

    def send() -> None:
        headers = {"Idempotency-Key": "the one job"}
        try:
            answers.append(httpx.post(stack.url + ADD, json={"image_paths": paths}, headers=headers, timeout=60))
        except httpx.TransportError:
            return

    first = threading.Thread(target=send)
    first.start()
    kill(stack, "api")
    first.join()

    def has_answer() -> bool:
        send()
        return bool(answers)

    stack.wait(has_answer, "the submission is answered", 60)
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["job_id"] for answer in answers}) == 1
    return answers[0].json()


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    """Whether the condition comes true in that time."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_part_killed_in_turn_the_same_job_completes_with_exact_counts(stack: Stack, tmp_path: Path):
    root = tmp_path / "photos"
    write_photos(root, IMAGES)
    poison = write_poison(root / "poison", POISON)
    paths = [str(path) for path in sorted(root.rglob("*")) if path.is_file()] + [str(root / "missing.jpg")]
    total, failed = len(paths), len(poison) + 1
    assert total == IMAGES + failed
    stack.extra = {"CLIP_PIPELINE_ROOTS": str(root), "CLIP_PIPELINE_BATCH_SIZE": "400"}
    stack.start()
    stack.wait_ready()

    submitted = submit(stack, paths)
    assert (submitted["images_count"], submitted["new_images_count"]) == (total, total)
    watcher = Watcher(stack.url, submitted["job_id"])
    kills: list[str] = []
    for name in [*PARTS] * ROUNDS:
        before = watcher.processed
        # Each works for a while before the next dies; where nothing moves, what was killed is on its way back.
        within(20, lambda before=before: watcher.processed != before)
        assert watcher.status != "completed", kills
        kill(stack, name)
        kills.append(f"{name} at {watcher.processed}")
    stack.wait(lambda: watcher.status == "completed", f"the job is complete after {kills}", 600)
    watcher.stop()

    assert watcher.faults == []
    assert {answer["status"] for answer in watcher.answers} <= {"queued", "running", "completed"}
    assert len({answer["progress"]["processed_images"] for answer in watcher.answers}) > 5
    final = watcher.answers[-1]
    assert final["progress"] == {
        "total_images": total, "processed_images": total, "failed_images": failed, "percent_complete": 100.0
    }  # fmt: skip
    assert {Path(one["path"]) for one in final["failed"]} == {*poison, root / "missing.jpg"}
    stack.wait_ready()
    stack.wait_idle(files=total)
    found = stack.balance()
    assert (found.files["indexed"], found.images["indexed"], found.files["failed"]) == (IMAGES, IMAGES, failed)
    assert found.holds
    assert stack.get("/api/v1/index/stats")["total_images"] == IMAGES
    assert [job["job_id"] for job in stack.get(STATUS)["recent_jobs"]] == [submitted["job_id"]]
    verified = stack.run("verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr
