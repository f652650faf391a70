"""Uploads while the run that analyzes them, and the service, are SIGKILLed: each comes to one end."""

import random
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from clip_pipeline_tests.e2e.lane_kills import PATIENCE_S, RUN, ended, ends, history, kill
from clip_pipeline_tests.e2e.stack import Stack, write_photos
from clip_pipeline_tests.poison import write_poison

UPLOADS, POISON = 1_000, 100
CLIENTS = 16
KILLS, KILL_SERVICE_AFTER = 5, 2
PROGRESS = range(30, 90)
"""So many requests come to their end between two kills."""
REFUSALS = {413, 415, 422}


@dataclass(frozen=True, slots=True)
class Sent:
    """A file and what its upload was answered with."""

    path: Path
    status: int
    document: Any


def upload(url: str, path: Path) -> Sent:
    """Upload one file under a key of its own until there is an answer: the service may be dead when it is asked."""
    key, content = uuid.uuid5(uuid.NAMESPACE_URL, path.name), path.read_bytes()
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            answer = httpx.post(
                f"{url}/analyze-image", files={"file": (path.name, content)}, data={"labels": "cat,sky,car"},
                headers={"Idempotency-Key": str(key)}, timeout=60, trust_env=False,
            )  # fmt: skip
        except httpx.TransportError:
            assert time.monotonic() < deadline, f"the service does not answer for {path.name}"
            time.sleep(0.2)
            continue
        return Sent(path, answer.status_code, answer.json())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_uploads_come_to_one_end_each_while_their_runs_and_the_service_are_killed(stack: Stack, tmp_path: Path):
    rng = random.Random(20_261_122)
    write_photos(tmp_path / "good", UPLOADS - POISON, seed=7)
    good = sorted((tmp_path / "good").iterdir())
    poison = write_poison(tmp_path / "poison", POISON)
    files = [*good, *poison]
    rng.shuffle(files)
    stack.start()
    stack.wait_ready()

    with ThreadPoolExecutor(CLIENTS) as pool:
        sending = [pool.submit(upload, stack.url, path) for path in files]
        seen: dict[str, tuple[str, str]] = {}
        kills: list[int] = []
        for number in range(KILLS):
            wanted = ended(stack) + rng.choice(PROGRESS)
            stack.wait(lambda wanted=wanted: ended(stack) >= wanted, f"{wanted} ended after {kills}", PATIENCE_S)
            kill(stack, RUN)
            kills.append(ended(stack))
            seen |= ends(history(stack.url).values())
            if number + 1 == KILL_SERVICE_AFTER:
                kill(stack, "clip_pipeline.cli.main api")
                stack.wait_ready()
        assert kills[-1] < UPLOADS - POISON, "all was done before the last kill"
        sent = [future.result() for future in sending]

    taken_in = {one.document["request_id"]: one for one in sent if one.status == 202}
    refused = [one for one in sent if one.status != 202]
    stack.wait(lambda: ended(stack) >= len(taken_in), f"every request ended, after {kills}", PATIENCE_S)
    requests = history(stack.url)

    assert requests.keys() == taken_in.keys()
    assert {one.path for one in refused} <= poison.keys()
    assert all(one.status in REFUSALS and one.document["detail"] for one in refused), refused
    failed = {id_ for id_, one in requests.items() if one["status"] == "failed"}
    assert {taken_in[id_].path for id_ in failed} == poison.keys() - {one.path for one in refused}
    assert failed
    assert all(requests[id_]["error_message"] for id_ in failed)
    assert {one["status"] for id_, one in requests.items() if id_ not in failed} == {"completed"}
    assert all(len(one["predictions"]) == 3 for id_, one in requests.items() if id_ not in failed)
    final = ends(requests.values())
    assert {id_: final[id_] for id_ in seen} == seen, "a request ended twice"
    assert ended(stack) == len(taken_in)
