"""Throughput and latency of the analysis lane, from upload to result, through the whole stack over HTTP.

1, 8 and 64 clients upload pictures of half a megapixel, each with ten labels, and wait for each result. Beside every
load stands the encoder called in a loop in one process, before it and after it: hashing, decoding and encoding 16
pictures at a time, no service, no disk. The same loads once more with micro-batches of one. Then 1,000 uploads without
waiting, and one client while a bulk embedding run works on the same cores.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

import httpx

from benchmarks.models import ensure_vit_b32
from benchmarks.photographs import ensure_photographs
from benchmarks.report import ROOT, WORK, console, machine, print_table, publish, verdict
from benchmarks.search_load import percentile
from benchmarks.stack_under_test import Stack, running, temporary_folder, wait_for
from clip_pipeline.ledger.balance import balance

HALF_A_MEGAPIXEL = (816, 612)
PICTURES = 48
REQUESTS = {1: 40, 8: 240, 64: 480}
"""Clients -> uploads of theirs."""
BURST, BURST_CLIENTS = 1_000, 64
BULK_IMAGES, BULK_REQUESTS = 2_000, 30
MICRO_BATCH = 16
SHARE_GOAL, OVERHEAD_GOAL_MS, BULK_GOAL = 0.7, 400.0, 2.0
COLD_STARTS = 3
TIMEOUT_S = 180.0
_EMBEDDING = """{ runsOrError(filter: {pipelineName: "embed_images", statuses: [STARTED]}) {
  ... on Runs { results { runId } } } }"""


class DirectLoop:
    """The encoder in a process of its own, which sleeps while it is not asked."""

    def __init__(self, folder: Path, pictures: Path, *, encoder: str) -> None:
        """Returns when it is loaded and warm."""
        command = [sys.executable, "-m", "benchmarks.direct_loop", str(folder / "direct"), str(pictures), encoder]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._answer() == "ready"

    def run(self, images: int, *, batch: int) -> dict[str, float]:
        """Seconds, of which decoding_s, for so many images, so many at a time."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{images} {batch}\n")
        self._process.stdin.flush()
        return json.loads(self._answer())

    def close(self) -> None:
        """End it."""
        self._process.communicate()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the process with the encoder ended; what it said is above")
        return line.strip()


def main() -> None:
    """Measure everything, print it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.analysis", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", default="builtin", metavar="NAME", help="vit-b32 has random weights (builtin)")
    parser.add_argument("--clients", type=int, nargs="+", default=list(REQUESTS), choices=REQUESTS, metavar="N")
    parser.add_argument("--without-cold", action="store_true", help="leave out the first results")
    parser.add_argument("--without-ones", action="store_true", help="leave out the micro-batches of one")
    parser.add_argument("--without-bulk", action="store_true", help="leave out the bulk embedding run")
    parser.add_argument("--keep", action="store_true", help="keep the temporary homes, with their logs, and say where")
    arguments = parser.parse_args()
    facts = machine()
    pictures = WORK / "photographs-05mp"
    ensure_photographs(pictures, PICTURES, size=HALF_A_MEGAPIXEL)
    encoder = arguments.encoder
    if encoder == "vit-b32":
        encoder = str(ensure_vit_b32(WORK / "models" / "clip-vit-b32-random"))
    with temporary_folder("analysis", keep=arguments.keep) as folder:
        found = _measure(folder, pictures, encoder, arguments)
    _report(facts, found)


def _measure(folder: Path, pictures: Path, encoder: str, arguments: argparse.Namespace) -> dict[str, Any]:
    direct = DirectLoop(folder, pictures, encoder=encoder)
    found: dict[str, Any] = {"encoder": arguments.encoder}
    if not arguments.without_cold:
        found["cold"] = _cold(folder / "cold", pictures, encoder)
    with _lane(folder / "batches", encoder, batch=MICRO_BATCH) as stack:
        _load(stack, pictures, clients=1, requests=2)
        found["lane"] = _loads(stack, direct, pictures, arguments.clients)
        found["burst"] = _load(stack, pictures, clients=BURST_CLIENTS, requests=BURST, options=["--burst"])
        if not arguments.without_bulk:
            found["bulk"] = _while_embedding(stack, pictures)
    if not arguments.without_ones:
        with _lane(folder / "ones", encoder, batch=1) as stack:
            _load(stack, pictures, clients=1, requests=2)
            found["ones"] = _loads(stack, direct, pictures, arguments.clients)
    direct.close()
    return found


@contextmanager
def _lane(folder: Path, encoder: str, *, batch: int, idle_s: float = 600) -> Generator[Stack, None, None]:
    """A stack. Its analysis runs stay for as long as the benchmark, unless they are told to end sooner."""
    extra = {"CLIP_PIPELINE_ANALYSIS_BATCH": str(batch), "CLIP_PIPELINE_ANALYSIS_IDLE_S": str(idle_s)}
    with running(folder, encoder=encoder, extra=extra) as stack:
        yield stack


def _cold(folder: Path, pictures: Path, encoder: str) -> dict[str, Any]:
    """Seconds to the first result where no run of the lane is alive: in a new home, then in one that had some."""
    times_s: list[float] = []
    with _lane(folder, encoder, batch=MICRO_BATCH, idle_s=1) as stack:
        for _ in range(1 + COLD_STARTS):
            times_s.append(_load(stack, pictures, clients=1, requests=1)["p50_ms"] / 1000)
            wait_for(lambda: _is_quiet(stack), timeout_s=TIMEOUT_S, what="the analysis run to end")
    return {"new_home_s": round(times_s[0], 1), "known_home_s": [round(one, 1) for one in times_s[1:]]}


def _is_quiet(stack: Stack) -> bool:
    return not any(stack.orchestrator.pulse().runs.values())


def _loads(stack: Stack, direct: DirectLoop, pictures: Path, clients: Sequence[int]) -> dict[str, Any]:
    """For each number of clients the lane between two rounds of the bare encoder."""
    loads: dict[str, Any] = {}
    for number in clients:
        images = REQUESTS[number] if number > 1 else 4 * REQUESTS[number]
        bare = [direct.run(images, batch=MICRO_BATCH)]
        one = direct.run(REQUESTS[1], batch=1)
        load = _load(stack, pictures, clients=number, requests=REQUESTS[number])
        bare.append(direct.run(images, batch=MICRO_BATCH))
        per_s = fmean(round_["images"] / round_["seconds"] for round_ in bare)
        loads[str(number)] = load | {
            "direct_images_per_s": round(per_s, 1),
            "direct_one_ms": round(1000 * one["seconds"] / one["images"], 1),
            "share_of_direct": round(load["images_per_s"] / per_s, 3),
        }
    return loads


def _load(stack: Stack, pictures: Path, *, clients: int, requests: int, options: Sequence[str] = ()) -> dict[str, Any]:
    command = [
        *(sys.executable, "-m", "benchmarks.analysis_load", str(stack.service.base_url), str(pictures)),
        *("--clients", str(clients), "--requests", str(requests), *options),
    ]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    load = json.loads(done.stdout)
    latencies, failures = load["latencies_ms"], load["failures"]
    if failures:
        raise SystemExit(f"{len(failures)} of {requests} requests failed: {failures[:3]}")
    return {
        "requests": len(latencies),
        "images_per_s": round(len(latencies) / load["seconds"], 1),
        "p50_ms": round(percentile(latencies, 0.5), 1),
        "p99_ms": round(percentile(latencies, 0.99), 1),
        "upload_p50_ms": round(percentile(load["upload_ms"], 0.5), 1),
        "upload_p99_ms": round(percentile(load["upload_ms"], 0.99), 1),
        "load_average": round(os.getloadavg()[0], 1),
    }


def _while_embedding(stack: Stack, pictures: Path) -> dict[str, Any]:
    """One client alone, then while a bulk embedding run works, then alone again."""

    def alone() -> dict[str, Any]:
        return _load(stack, pictures, clients=1, requests=BULK_REQUESTS)

    before = alone()
    _fill(stack.watched, sorted(pictures.glob("*.jpg")))
    wait_for(lambda: _is_embedding(stack), timeout_s=TIMEOUT_S, what="the bulk embedding run")
    during = alone()
    if not _is_embedding(stack):
        raise SystemExit("the bulk embedding run ended too soon; nothing was measured beside it")
    wait_for(lambda: _is_at_rest(stack), timeout_s=600, what="the bulk embedding to end")
    after = alone()
    ratio = during["p50_ms"] / fmean([before["p50_ms"], after["p50_ms"]])
    return {"before": before, "during": during, "after": after, "p50_ratio": round(ratio, 2)}


def _fill(watched: Path, pictures: Sequence[Path]) -> None:
    for number in range(BULK_IMAGES):
        content = pictures[number % len(pictures)].read_bytes()
        (watched / f"{number:06d}.jpg").write_bytes(content + number.to_bytes(4, "big"))


def _is_embedding(stack: Stack) -> bool:
    answer = httpx.post(f"{stack.orchestrator.url}/graphql", json={"query": _EMBEDDING}, timeout=60, trust_env=False)
    return bool(answer.raise_for_status().json()["data"]["runsOrError"]["results"])


def _is_at_rest(stack: Stack) -> bool:
    files = balance(stack.ledger).files
    return files["indexed"] == BULK_IMAGES and not _is_embedding(stack)


def _report(facts: Mapping[str, object], found: Mapping[str, Any]) -> None:
    goals = _goals(found)
    publish("analysis", {"machine": facts, **found, "goals": goals})
    rows: list[Sequence[object]] = []
    for name, way in (("lane", "16 at a time"), ("ones", "one by one")):
        for clients, load in found.get(name, {}).items():
            rows.append(
                (f"{clients} clients, {way}", load["images_per_s"], load["direct_images_per_s"],
                 load["share_of_direct"], load["p50_ms"], load["p99_ms"], load["upload_p50_ms"])
            )  # fmt: skip
    headers = ("", "images/s", "loop", "share", "p50 ms", "p99 ms", "upload p50 ms")
    print_table("From upload to result, beside the encoder in a loop", headers, rows)
    people = console()
    if "cold" in found:
        people.print(
            f"First result: {found['cold']['new_home_s']} s in a new home, then {found['cold']['known_home_s']} s"
        )
    burst = found["burst"]
    people.print(f"{burst['requests']} uploads at once: all completed, {burst['images_per_s']} images/s")
    if "bulk" in found:
        bulk = found["bulk"]
        people.print(
            f"While a bulk run embeds: p50 {bulk['during']['p50_ms']} ms, {bulk['p50_ratio']} times that without"
        )
    for goal, reached in goals.items():
        people.print(f"{goal}: {verdict(reached)}")


def _goals(found: Mapping[str, Any]) -> dict[str, bool]:
    lane, goals = found["lane"], {}
    if "64" in lane:
        goals[f"64 clients at least {SHARE_GOAL:.0%} of the loop"] = lane["64"]["share_of_direct"] >= SHARE_GOAL
    if "1" in lane:
        overhead_ms = lane["1"]["p50_ms"] - lane["1"]["direct_one_ms"]
        goals[f"one client p50 less than {OVERHEAD_GOAL_MS:g} ms above the loop"] = overhead_ms < OVERHEAD_GOAL_MS
    if "bulk" in found:
        goals[f"p50 within {BULK_GOAL:g} times beside a bulk run"] = found["bulk"]["p50_ratio"] <= BULK_GOAL
    return goals


if __name__ == "__main__":
    main()
