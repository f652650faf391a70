"""Registering 100,000 paths against a million known ones: seconds and memory of one call of `register_files`.

The submission is mixed, as a re-scan of a grown archive is: half of the paths are known and unchanged, a tenth have
changed, the rest are new. Everything known is still under way, the case with most to write: the job waits for it. In
the same run two usual ways to do without a set-based transaction find out what is new and remember it:

- a JSON state file: read all that is known, compare, write all of it again;
- per-path queries: one SELECT a path, then one INSERT or UPDATE, by bare sqlite3 in one transaction.

Both do less: neither opens a job that waits for its files, nor lets go of the image of a changed file.

Paths are made up; no file is looked at, which is the scan's work. Each way runs in a fresh process, whose peak memory
is what is reported, on a copy of what is known that has reached the disk before.

`--database postgres` measures the call alone, against ten million in a server of its own; see `register_postgres`.
"""

import argparse
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import register_postgres
from benchmarks.footprint import own_peak_bytes
from benchmarks.report import ROOT, console, machine, print_table, progress, publish, verdict
from clip_pipeline.core.store import fsync_path
from clip_pipeline.ledger.database import open_ledger
from clip_pipeline.ledger.registration import FileFacts, Submission, register_files

GOAL_S, GOAL_GIB = 5.0, 1.0
KNOWN = {"sqlite": 1_000_000, "postgres": 10_000_000}
KNOWN_SHARE, CHANGED_SHARE = 0.5, 0.1
_STEP = 100_000
OURS = "register_files"
WAYS = (OURS, "json-file", "per-path-queries")


@dataclass(frozen=True, slots=True)
class _Timed:
    """How long it took to find out, and to write down, which paths are new or changed and which are known."""

    seconds: float
    queued: int
    known: int


def main() -> None:
    """Build what is known, then measure each way on a copy of it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.register", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite", help="what the ledger is in")
    parser.add_argument("--known", type=int, metavar="N", help="paths known before (1,000,000; PostgreSQL: 10,000,000)")
    parser.add_argument("--paths", type=int, default=100_000, metavar="N", help="paths to register (100,000)")
    parser.add_argument(
        "--beside", nargs="*", choices=WAYS[1:], default=WAYS[1:], metavar="WAY", help="json-file, per-path-queries"
    )
    parser.add_argument("--one", nargs=2, metavar=("WAY", "DIR"), help=argparse.SUPPRESS)  # in the child process
    parser.add_argument("--round", nargs=2, metavar=("URL", "NUMBER"), help=argparse.SUPPRESS)  # the same
    arguments = parser.parse_args()
    known = arguments.known or KNOWN[arguments.database]
    if arguments.one:
        way, folder = arguments.one
        sys.stdout.write(json.dumps(_measured(way, Path(folder), known=known, paths=arguments.paths)))
    elif arguments.round:
        url, number = arguments.round
        register_postgres.measure_round(url, int(number), known=known, paths=arguments.paths)
    elif arguments.database == "postgres":
        register_postgres.compare(known=known, paths=arguments.paths)
    else:
        with tempfile.TemporaryDirectory(prefix="clip-pipeline-register-") as folder:
            _compare(Path(folder), (OURS, *arguments.beside), known=known, paths=arguments.paths)


def known_facts(count: int) -> Iterator[FileFacts]:
    """What is known: photographs in folders of a thousand, with paths of a usual length."""
    return (fact_of(number) for number in range(count))


def submitted_facts(paths: int, *, known: int, turn: int = 0) -> Iterator[FileFacts]:
    """Paths to register, spread evenly over what is known: unchanged ones, changed ones, new ones.

    turn: each has other paths.
    """
    unchanged, changed = round(paths * KNOWN_SHARE), round(paths * CHANGED_SHARE)
    old = min(known, unchanged + changed)
    for position in range(old):
        number = (position * known // old + turn) % known
        is_changed = position % 6 == 5  # a sixth of the known ones: a tenth of all
        yield fact_of(number, version=int(is_changed))
    first_new = known + turn * paths
    yield from (fact_of(first_new + number) for number in range(paths - old))


def fact_of(number: int, *, version: int = 0) -> FileFacts:
    """A made-up photograph; another version has another size and time."""
    path = f"/data/photographs/archive/{number // 1000:05d}/IMG_{number:08d}.jpg"
    return FileFacts(path, 400_000 + number % 5000 + version, 1_700_000_000_000_000_000 + number + version)


def _compare(folder: Path, ways: Sequence[str], *, known: int, paths: int) -> None:
    facts = machine()
    with progress() as bar:
        task = bar.add_task("Registering what is known", total=known + len(ways))
        _build(folder, known=known, on_step=lambda done: bar.update(task, completed=done))
        results: dict[str, dict[str, Any]] = {}
        for way in ways:
            bar.update(task, description=f"Measuring {way}")
            results[way] = _in_fresh_process(way, folder, known=known, paths=paths)
            bar.advance(task)
    _check_same_work(results)
    ours = results[OURS]
    reached = ours["seconds"] < GOAL_S and ours["peak_memory_gib"] < GOAL_GIB
    ratios = {way: round(results[way]["seconds"] / ours["seconds"], 1) for way in ways[1:]}
    publish(
        "register",
        {
            "machine": facts,
            "known": known,
            "paths": paths,
            "database": f"SQLite {sqlite3.sqlite_version}",
            "ledger_bytes": (folder / "ledger.sqlite3").stat().st_size,
            "ledger_bytes_per_path": round((folder / "ledger.sqlite3").stat().st_size / known, 1),
            "ways": results,
            "times_as_long": ratios,
            "goal_seconds": GOAL_S,
            "goal_memory_gib": GOAL_GIB,
            "goal_reached": reached,
        },
    )
    rows = [
        (way, r["seconds"], r["cpu_seconds"], r["peak_memory_gib"], f"{ratios.get(way, 1.0):g} x")
        for way, r in results.items()
    ]
    print_table(f"{paths:,} paths against {known:,} known", ("", "seconds", "CPU s", "peak GiB", "takes"), rows)
    console().print(f"Goal under {GOAL_S:g} s and {GOAL_GIB:g} GiB: {verdict(reached)}")


def _build(folder: Path, *, known: int, on_step: Callable[[int], None]) -> None:
    """A ledger with everything known, and a JSON file that says the same."""
    ledger = open_ledger(f"sqlite:///{folder / 'ledger.sqlite3'}")
    try:
        for start in range(0, known, _STEP):
            step = (fact_of(number) for number in range(start, min(known, start + _STEP)))
            register_files(ledger, step, submission=Submission("cli"))
            on_step(min(known, start + _STEP))
    finally:
        ledger.close()
    with (folder / "state.json").open("w") as file:  # line by line: ten million entries at once are gigabytes
        for position, fact in enumerate(known_facts(known)):
            entry = f"{json.dumps(fact.path)}: [{fact.size_bytes}, {fact.mtime_ns}]"
            file.write(f"{', ' if position else '{'}{entry}\n")
        file.write("}")


def _in_fresh_process(way: str, folder: Path, *, known: int, paths: int) -> dict[str, Any]:
    copy = folder / way
    copy.mkdir()
    source = folder / ("state.json" if way == "json-file" else "ledger.sqlite3")
    shutil.copy(source, copy / source.name)
    fsync_path(copy / source.name)  # or the first commit would pay for writing all of it
    command = [
        *(sys.executable, "-m", "benchmarks.register", "--one", way, str(copy)),
        *("--known", str(known), "--paths", str(paths)),
    ]
    output = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    shutil.rmtree(copy)
    return json.loads(output)


def _measured(way: str, folder: Path, *, known: int, paths: int) -> dict[str, Any]:
    """One way in this process. peak_memory_gib: of the whole process, Python and imports included."""
    do: Callable[[Path, list[FileFacts]], _Timed] = {
        OURS: _by_register_files, "json-file": _by_json_file, "per-path-queries": _by_queries,
    }[way]  # fmt: skip
    submitted = list(submitted_facts(paths, known=known))
    cpu_before = time.process_time()
    timed = do(folder, submitted)
    cpu_s = time.process_time() - cpu_before
    return {
        "seconds": round(timed.seconds, 3), "cpu_seconds": round(cpu_s, 3),
        "peak_memory_gib": round(own_peak_bytes() / 2**30, 3),
        "queued": timed.queued, "known": timed.known,
    }  # fmt: skip


def _by_register_files(folder: Path, submitted: list[FileFacts]) -> _Timed:
    """Opening the ledger, which looks for migrations, is not counted: a service or a sensor has it open."""
    ledger = open_ledger(f"sqlite:///{folder / 'ledger.sqlite3'}")
    try:
        began = time.perf_counter()
        done = register_files(ledger, submitted, submission=Submission("cli"))
        return _Timed(time.perf_counter() - began, done.new_images_count, done.already_indexed_count)
    finally:
        ledger.close()


def _by_json_file(folder: Path, submitted: list[FileFacts]) -> _Timed:
    began = time.perf_counter()
    path = folder / "state.json"
    state = json.loads(path.read_text())
    queued = 0
    for fact in submitted:
        entry = [fact.size_bytes, fact.mtime_ns]
        if state.get(fact.path) != entry:
            state[fact.path] = entry
            queued += 1
    temporary = folder / "state.json.tmp"
    with temporary.open("w") as file:
        file.write(json.dumps(state))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    return _Timed(time.perf_counter() - began, queued, len(submitted) - queued)


def _by_queries(folder: Path, submitted: list[FileFacts]) -> _Timed:
    """As plain as can be: no job, and no states but the one that a new file begins with."""
    connection = sqlite3.connect(folder / "ledger.sqlite3")
    began = time.perf_counter()
    job_id = connection.execute("SELECT job_id FROM jobs LIMIT 1").fetchone()[0]
    queued = 0
    with connection:
        for fact in submitted:
            found = connection.execute("SELECT size_bytes, mtime_ns FROM files WHERE path = ?", (fact.path,)).fetchone()
            if found == (fact.size_bytes, fact.mtime_ns):
                continue
            queued += 1
            if found is None:
                connection.execute(
                    "INSERT INTO files (path, size_bytes, mtime_ns, job_id, state, updated_at) "
                    "VALUES (?, ?, ?, ?, 'registered', '')",
                    (fact.path, fact.size_bytes, fact.mtime_ns, job_id),
                )
            else:
                connection.execute(
                    "UPDATE files SET size_bytes = ?, mtime_ns = ? WHERE path = ?",
                    (fact.size_bytes, fact.mtime_ns, fact.path),
                )
    seconds = time.perf_counter() - began
    connection.close()
    return _Timed(seconds, queued, len(submitted) - queued)


def _check_same_work(results: dict[str, dict[str, Any]]) -> None:
    counts = {(result["queued"], result["known"]) for result in results.values()}
    if len(counts) != 1:
        raise SystemExit(f"the ways came to different results, so their times say nothing: {results}")


if __name__ == "__main__":
    main()
