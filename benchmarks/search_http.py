"""Searches by text over HTTP: latency, requests/s, and where the time goes, with 1, 8 and 32 clients.

Builds an index of made-up images in a temporary home, around the vectors of the built-in encoder's classes, and starts
services on it, processes of their own. Clients are threads of another process and search without a pause for captions
that are all different, so no answer comes from the memory of texts. In the same run:

- `batched`: `clip-pipeline api` as it is;
- `one-by-one`: the same service, but each text is a forward pass of its own;
- `swaps`: `clip-pipeline api` once more, while releases are published and old ones pruned; no request may fail;
- `bare`: no service at all, a loop in one process: encode one text, compare with every vector (`faiss.IndexFlatIP`).

The ways take turns at each number of clients.
"""

import argparse
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

import httpx
import numpy as np

from benchmarks.captions import captions
from benchmarks.made_up_index import MadeUpIndex
from benchmarks.report import ROOT, console, machine, print_table, progress, publish
from benchmarks.search_load import percentile
from benchmarks.stack_under_test import STOP_TIMEOUT_S, wait_for
from clip_pipeline.cli.configuration import load_settings
from clip_pipeline.cli.stack.state import service_url
from clip_pipeline.core.encoder import EmbeddingMatrix, Encoder, EncoderSpec, PixelBatch
from clip_pipeline.embedding.builtin import builtin_spec, class_texts
from clip_pipeline.ledger.database import open_ledger
from clip_pipeline.serving.encoder_slot import encoder_loader
from clip_pipeline.serving.server import serve
from clip_pipeline.settings import Settings

BATCHED, ONE_BY_ONE = "batched", "one-by-one"
START_TIMEOUT_S = 120.0
SWAP_CLIENTS = 8
SWAP_S, SLOWEST_SWAP_S = 5.0, 60.0
"""A load goes on for at least so long, and there are questions for one that lasts as long as a slow publication."""

MOST_PER_S = 1500
K = 10
CENTRES = 200
PARTS = ("encode", "index", "ledger")


def main() -> None:
    """Build, serve, load, print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.search_http",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--images", type=int, default=100_000, metavar="N", help="images in the index (100,000)")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32], metavar="N", help="clients (1 8 32)")
    parser.add_argument("--seconds", type=float, default=10, metavar="S", help="of each load (10)")
    parser.add_argument("--swaps", type=int, default=10, metavar="N", help="releases published under load (10)")
    parser.add_argument("--home", type=Path, help="build the index here and keep it, or use the one that is here")
    parser.add_argument("--serve", choices=(ONE_BY_ONE,), help=argparse.SUPPRESS)  # in the child process
    parser.add_argument("--bare", type=float, metavar="S", help=argparse.SUPPRESS)  # in the child process
    arguments = parser.parse_args()
    if arguments.serve:
        _serve_one_by_one()
    elif arguments.bare:
        sys.stdout.write(json.dumps(_bare(load_settings(), seconds=arguments.bare)))
    elif arguments.home:
        _measure(arguments.home, arguments)
    else:
        home = Path(tempfile.mkdtemp(prefix="clip-pipeline-search-"))
        try:
            _measure(home, arguments)
        finally:
            shutil.rmtree(home, ignore_errors=True)


class OneByOne:
    """An encoder that makes a forward pass for each text."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    @property
    def spec(self) -> EncoderSpec:
        """As the encoder's."""
        return self._encoder.spec

    @property
    def logit_scale(self) -> float:
        """As the encoder's."""
        return self._encoder.logit_scale

    def encode_images(self, pixels: PixelBatch) -> EmbeddingMatrix:
        """As the encoder does."""
        return self._encoder.encode_images(pixels)

    def encode_texts(self, texts: Sequence[str]) -> EmbeddingMatrix:
        """The same vectors, one after the other."""
        return np.concatenate([self._encoder.encode_texts([text]) for text in texts])


def _measure(home: Path, arguments: argparse.Namespace) -> None:
    facts, questions = machine(), captions()
    settings = load_settings(home=home)
    with progress() as bar:
        task = bar.add_task("Building the index", total=3 + 2 * len(arguments.clients))
        index = _built(settings, images=arguments.images)
        bar.advance(task)
        bar.update(task, description="No service at all")
        bare = json.loads(_child(home, "--bare", str(arguments.seconds)))
        bar.advance(task)
        loads: dict[str, dict[str, Any]] = {BATCHED: {}, ONE_BY_ONE: {}}
        for clients, way in itertools.product(arguments.clients, loads):
            bar.update(task, description=f"{way}, {clients} clients")
            with _service(home, way) as url:
                load = _load(url, questions, clients=clients, seconds=arguments.seconds)
                loads[way][str(clients)] = _summary(load)
            bar.advance(task)
        bar.update(task, description=f"Publishing {arguments.swaps} releases meanwhile")
        swaps = _swaps_under_load(index, questions, first=arguments.images, swaps=arguments.swaps)
    index.ledger.close()
    _report(facts, loads, swaps, bare=bare, images=arguments.images)


def _built(settings: Settings, *, images: int) -> MadeUpIndex:
    """The index, made unless a former run left it here."""
    settings.home_path.mkdir(parents=True, exist_ok=True)
    encoder = encoder_loader(settings.home_path / "cache")(builtin_spec())
    index = MadeUpIndex(settings, open_ledger(settings.ledger_location), encoder.encode_texts(class_texts()[:CENTRES]))
    if settings.store.current_release_number(encoder.spec.key) is None:
        index.add(0, images)
    return index


def _environment(home: Path) -> dict[str, str]:
    others = {name: value for name, value in os.environ.items() if not name.startswith("CLIP_PIPELINE_")}
    return others | {"CLIP_PIPELINE_HOME": str(home)}


def _child(home: Path, *options: str) -> str:
    """What this module prints when called with other options."""
    command = [sys.executable, "-m", "benchmarks.search_http", *options]
    return subprocess.run(
        command, cwd=ROOT, env=_environment(home), stdout=subprocess.PIPE, text=True, check=True
    ).stdout


@contextmanager
def _service(home: Path, way: str) -> Generator[str, None, None]:
    """The address of a service that has its encoder and its release, stopped after the block."""
    command = {
        BATCHED: ["-m", "clip_pipeline.cli.main", "api", "--port", "0"],
        ONE_BY_ONE: ["-m", "benchmarks.search_http", "--serve", ONE_BY_ONE],
    }[way]
    with (home / f"{way}.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env=_environment(home), stdin=subprocess.DEVNULL, stdout=log,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        wait_for(
            lambda: service_url(home) is not None, timeout_s=START_TIMEOUT_S, what="the service to say where it is"
        )
        url = service_url(home) or ""
        wait_for(lambda: _answers(url), timeout_s=START_TIMEOUT_S, what="the service to answer")
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(STOP_TIMEOUT_S)


def _answers(url: str) -> bool:
    try:
        response = httpx.get(f"{url}/api/v1/search", params={"q": "warm"}, trust_env=False, timeout=START_TIMEOUT_S)
    except httpx.TransportError:
        return False
    return response.status_code == httpx.codes.OK and len(response.json()["results"]) == K


def _serve_one_by_one() -> None:
    """In the child process: the service of `clip-pipeline api` with an encoder that knows no batches."""
    from clip_pipeline.cli.stack.held_file import announced  # noqa: PLC0415
    from clip_pipeline.cli.stack.ports import free_port  # noqa: PLC0415
    from clip_pipeline.cli.stack.state import service_file  # noqa: PLC0415

    settings = load_settings()
    settings = settings.model_copy(update={"port": free_port(settings.host)})
    load = encoder_loader(settings.home_path / "cache")
    with announced(service_file(settings.home_path), {"url": f"http://{settings.host}:{settings.port}"}):
        serve(settings, load=lambda spec: OneByOne(load(spec)))


def _start_load(
    url: str, questions: Iterator[str], *, clients: int, seconds: float, while_exists: Path | None = None
) -> "subprocess.Popen[str]":
    """Clients that ask for some seconds, or for as long as a file is there where that is longer."""
    command = [sys.executable, "-m", "benchmarks.search_load", url, "--clients", str(clients)]
    command += ["--seconds", str(seconds)]
    command += ["--while-exists", str(while_exists)] if while_exists else []
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    most_s = max(seconds, SLOWEST_SWAP_S) if while_exists else seconds
    process.stdin.writelines(f"{text}\n" for text in itertools.islice(questions, round(MOST_PER_S * most_s)))
    process.stdin.close()
    return process


def _load(url: str, questions: Iterator[str], *, clients: int, seconds: float) -> dict[str, Any]:
    return _ended(_start_load(url, questions, clients=clients, seconds=seconds))


def _ended(process: "subprocess.Popen[str]") -> dict[str, Any]:
    assert process.stdout is not None
    output = process.stdout.read()
    if process.wait():
        raise SystemExit(f"the clients ended with status {process.returncode}; what they said is above")
    return json.loads(output)


def _swaps_under_load(index: MadeUpIndex, questions: Iterator[str], *, first: int, swaps: int) -> dict[str, Any]:
    """Publish releases while clients search; each adds 100 images."""
    home, took_s = index.settings.home_path, 0.0
    first += 100 * (index.settings.store.current_release_number(builtin_spec().key) or 0)
    summaries: list[dict[str, Any]] = []
    publishing = home / "publishing"
    with _service(home, BATCHED) as url:
        for n in range(swaps):
            publishing.touch()
            process = _start_load(url, questions, clients=SWAP_CLIENTS, seconds=SWAP_S, while_exists=publishing)
            began = time.monotonic()
            try:
                index.add(first + 100 * n, 100)
            finally:
                publishing.unlink()
            took_s = max(took_s, time.monotonic() - began)
            summaries.append(_summary(_ended(process)))
    return {
        "releases": swaps,
        "slowest_publication_s": round(took_s, 2),
        "requests": sum(summary["requests"] for summary in summaries),
        "failed": sum(summary["failed"] for summary in summaries),
        "went_back": sum(summary["went_back"] for summary in summaries),
        "p50_ms": round(fmean(summary["p50_ms"] for summary in summaries), 2),
        "worst_p99_ms": max(summary["p99_ms"] for summary in summaries),
        "seen": sorted({release for summary in summaries for release in summary["releases"]}),
    }


def _summary(load: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of one load. shares: of all the time that clients waited."""
    tallies = load["clients"]
    latencies = [latency for tally in tallies for latency in tally["latencies_ms"]]
    failures = [failure for tally in tallies for failure in tally["failures"]]
    if not latencies:
        raise SystemExit(f"no request was answered: {failures[:3]}")
    waited_ms = sum(latencies)
    shares = {part: sum(t["spent_ms"].get(part, 0.0) for t in tallies) / waited_ms for part in PARTS}
    return {
        "requests": len(latencies),
        "failed": len(failures),
        "failures": failures[:3],
        "went_back": sum(tally["went_back"] for tally in tallies),
        "releases": sorted({release for tally in tallies for release in tally["releases"]}),
        "p50_ms": round(percentile(latencies, 0.5), 2),
        "p99_ms": round(percentile(latencies, 0.99), 2),
        "requests_per_s": round(len(latencies) / load["seconds"], 1),
        "shares": {part: round(share, 3) for part, share in (shares | {"rest": 1 - sum(shares.values())}).items()},
    }


def _bare(settings: Settings, *, seconds: float) -> dict[str, float]:
    """In the child process: encode, compare with everything, next."""
    import faiss  # noqa: PLC0415 - the parent has no use for it

    from clip_pipeline.core.embeddings import read_embeddings  # noqa: PLC0415
    from clip_pipeline.ledger.planning import batch_keys  # noqa: PLC0415

    spec, ledger = builtin_spec(), open_ledger(settings.ledger_location)
    flat: Any = faiss.IndexFlatIP(spec.dim)
    for batch in batch_keys(ledger):
        flat.add(np.asarray(read_embeddings(settings.store, spec.key, batch).vectors, np.float32))
    ledger.close()
    encoder = encoder_loader(settings.home_path / "cache")(spec)
    encoder.encode_texts(["warm"])
    latencies: list[float] = []
    encode_ms, ends = 0.0, time.monotonic() + seconds
    for text in captions(seed=1):
        started = time.perf_counter()
        vector = encoder.encode_texts([text])
        encode_ms += 1000 * (time.perf_counter() - started)
        flat.search(vector, K)
        latencies.append(1000 * (time.perf_counter() - started))
        if time.monotonic() > ends:
            break
    return {
        "requests": len(latencies),
        "p50_ms": round(percentile(latencies, 0.5), 2),
        "p99_ms": round(percentile(latencies, 0.99), 2),
        "requests_per_s": round(1000 * len(latencies) / sum(latencies), 1),
        "encode_share": round(encode_ms / sum(latencies), 3),
    }


def _report(
    facts: Mapping[str, object],
    loads: Mapping[str, Mapping[str, Any]],
    swaps: Mapping[str, Any],
    *,
    bare: Mapping[str, float],
    images: int,
) -> None:
    ours, theirs = loads[BATCHED], loads[ONE_BY_ONE]
    ratios = {n: round(ours[n]["requests_per_s"] / theirs[n]["requests_per_s"], 2) for n in ours}
    failed = swaps["failed"] + sum(load["failed"] for of_way in loads.values() for load in of_way.values())
    document = {
        "machine": facts,
        "images": images,
        "encoder": builtin_spec().name,
        "k": K,
        "loads": loads,
        "requests_per_s_against_one_by_one": ratios,
        "bare": bare,
        "swaps": swaps,
        "failed": failed,
    }
    publish("search_http", document)
    rows: list[tuple[object, ...]] = [
        (f"{way}, {n} clients", load["p50_ms"], load["p99_ms"], load["requests_per_s"],
         *(f"{load['shares'][part]:.0%}" for part in (*PARTS, "rest")), load["failed"])
        for n in ours for way, load in ((BATCHED, ours[n]), (ONE_BY_ONE, theirs[n]))
    ]  # fmt: skip
    rows.append(("no service, 1 loop", bare["p50_ms"], bare["p99_ms"], bare["requests_per_s"], *[""] * 5))
    headers = ("", "p50 ms", "p99 ms", "requests/s", *PARTS, "rest", "failed")
    print_table(f"Searches by text among {images:,} images", headers, rows)
    swapped = (
        f"{swaps['requests']} requests while {swaps['releases']} releases were published: {swaps['failed']} failed"
    )
    console().print(f"{swapped}, {swaps['went_back']} went back to an older release, p99 {swaps['worst_p99_ms']} ms")
    if failed:
        raise SystemExit(f"{failed} requests failed")


if __name__ == "__main__":
    main()
