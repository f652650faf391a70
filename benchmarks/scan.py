"""Scanning a folder of a million known files in which nothing is new, beside a bare walk; the ledger's size per image.

The scan is the one of the `watched_folders` sensor, with its rules: ticks of bounded time, each going on where the last
one stopped, until the folder's end. Beside it in the same run `os.scandir` and one `stat` a file, recursively, which
compares with nothing and remembers nothing. The files are empty ones, a thousand to a folder, and all of them are known
to the ledger, by a first scan that is timed too. Each pass runs in a fresh process; all of the tree's inodes are in the
kernel's caches then, which is the common case where a folder is looked at every few seconds.

The ledger's size is of images that went all the way to a release, made up (see `benchmarks.made_up_index`).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.footprint import own_peak_bytes
from benchmarks.report import ROOT, Document, console, machine, print_table, progress, publish, verdict
from clip_pipeline.ledger.database import open_ledger
from clip_pipeline.ledger.scanning import ScanRules, scan_folder
from clip_pipeline.settings import Settings

FILES, IMAGES, ROUNDS = 1_000_000, 50_000, 3
FILES_OF_FOLDER = 1000
BARE, SCAN = "os.scandir and stat", "scan_folder"
_CENTRES = 1000
_SEED = 20_240_229


def main() -> None:
    """Make the tree, have it known, then take turns walking it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=FILES, metavar="N", help="files of the tree (1,000,000)")
    parser.add_argument("--images", type=int, default=IMAGES, metavar="N", help="images of the ledger's size (50,000)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help="passes of each way (3)")
    parser.add_argument("--one", nargs=2, metavar=("WAY", "DIR"), help=argparse.SUPPRESS)  # in the child process
    arguments = parser.parse_args()
    if arguments.one:
        way, folder = arguments.one
        sys.stdout.write(json.dumps({BARE: _walked, SCAN: _scanned}[way](Path(folder))))
        return
    with tempfile.TemporaryDirectory(prefix="clip-pipeline-scan-") as folder:
        _compare(Path(folder), files=arguments.files, images=arguments.images, rounds=arguments.rounds)


def _compare(folder: Path, *, files: int, images: int, rounds: int) -> None:
    facts = machine()
    _require_inodes(folder, files)
    with progress() as bar:
        task = bar.add_task("Making files", total=2 + 2 * rounds)
        make_tree(folder / "tree", files)
        bar.update(task, advance=1, description="First scan")
        first = _in_fresh_process(SCAN, folder)
        bar.advance(task)
        passes: dict[str, list[Document]] = {BARE: [], SCAN: []}
        for _ in range(rounds):
            for way, found in passes.items():
                bar.update(task, description=way)
                found.append(_in_fresh_process(way, folder))
                bar.advance(task)
    _check(first, passes, files=files)
    ways = {way: _summary(found, files=files) for way, found in passes.items()}
    per_file = (folder / "ledger.sqlite3").stat().st_size / files
    per_image = ledger_bytes_per_image(folder / "home", images)
    _report(facts, ways, first | _rate(first, files), files=files, per_file=per_file, images=images,
            per_image=per_image)  # fmt: skip


def make_tree(root: Path, files: int) -> None:
    """So many empty files in folders of a thousand, modified long ago."""
    for start in range(0, files, FILES_OF_FOLDER):
        folder = root / f"{start // FILES_OF_FOLDER:05d}"
        folder.mkdir(parents=True)
        for number in range(start, min(files, start + FILES_OF_FOLDER)):
            path = f"{folder}/IMG_{number:08d}.jpg"
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
            os.utime(path, (1_700_000_000, 1_700_000_000))


def ledger_bytes_per_image(home: Path, images: int) -> float:
    """What a SQLite ledger takes for each image that is registered, inspected, embedded and published."""
    # Here, because the processes that scan are this module too, and should not hold an encoder's packages.
    from benchmarks.made_up_index import MadeUpIndex  # noqa: PLC0415
    from clip_pipeline.embedding.builtin import builtin_spec  # noqa: PLC0415

    settings = Settings(home=home)
    home.mkdir()
    centres = np.random.default_rng(_SEED).standard_normal((_CENTRES, builtin_spec().dim)).astype(np.float32)
    index = MadeUpIndex(
        settings, open_ledger(settings.ledger_location), centres / np.linalg.norm(centres, axis=1, keepdims=True)
    )
    index.add(0, images)
    index.ledger.close()
    return sum(path.stat().st_size for path in home.glob("ledger.sqlite3*")) / images


def _scanned(folder: Path) -> Document:
    """One scan to the folder's end, tick by tick. Opening the ledger is not counted: a sensor has it open."""
    rules = ScanRules(ignore=Settings(home=folder / "home").ignore_patterns, roots=(folder,))
    ledger = open_ledger(f"sqlite:///{folder / 'ledger.sqlite3'}")
    ticks: list[float] = []
    new = unchanged = 0
    after: str | None = ""
    cpu_before = time.process_time()
    while after is not None:
        began = time.perf_counter()
        scan = scan_folder(ledger, folder / "tree", rules=rules, after=after)
        ticks.append(round(time.perf_counter() - began, 3))
        new += scan.registration.new_images_count if scan.registration else 0
        unchanged += scan.unchanged
        after = scan.next_after
    cpu_s = time.process_time() - cpu_before
    ledger.close()
    return {"seconds": sum(ticks), "cpu_seconds": cpu_s, "ticks": ticks, "new": new, "unchanged": unchanged,
            "peak_bytes": own_peak_bytes()}  # fmt: skip


def _walked(folder: Path) -> Document:
    cpu_before, began = time.process_time(), time.perf_counter()
    files = sum(1 for _ in _stats(str(folder / "tree")))
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu_before
    return {"seconds": seconds, "cpu_seconds": cpu_s, "unchanged": files, "new": 0, "peak_bytes": own_peak_bytes()}


def _stats(folder: str) -> Iterator[os.stat_result]:
    with os.scandir(folder) as listing:
        for entry in listing:
            if entry.is_dir(follow_symlinks=False):
                yield from _stats(entry.path)
            elif entry.is_file():
                yield entry.stat()


def _require_inodes(folder: Path, files: int) -> None:
    facts = os.statvfs(folder)
    if facts.f_files and facts.f_favail < 2 * files:  # some filesystems have no limit and say 0
        raise SystemExit(f"{folder} has {facts.f_favail:,} inodes left, twice {files:,} are wanted; set TMPDIR")


def _in_fresh_process(way: str, folder: Path) -> Document:
    command = [sys.executable, "-m", "benchmarks.scan", "--one", way, str(folder)]
    return json.loads(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout)


def _check(first: Document, passes: dict[str, list[Document]], *, files: int) -> None:
    seen = {(found["new"], found["unchanged"]) for way in passes.values() for found in way}
    if (first["new"], seen) != (files, {(0, files)}):
        raise SystemExit(f"of {files} files the first scan registered {first['new']}, later passes saw {seen}")


def _rate(found: Document, files: int) -> Document:
    return {"seconds_per_100k": round(found["seconds"] * 100_000 / files, 3)}


def _summary(passes: list[Document], *, files: int) -> Document:
    """Of the median pass, with the longest tick and the highest peak of all."""
    middle = sorted(passes, key=lambda found: found["seconds"])[len(passes) // 2]
    ticks = [tick for found in passes for tick in found.get("ticks", ())]
    return {
        **_rate(middle, files),
        "cpu_seconds_per_100k": round(middle["cpu_seconds"] * 100_000 / files, 3),
        "seconds": [round(found["seconds"], 3) for found in passes],
        "ticks": len(middle.get("ticks", (0,))),
        "longest_tick_s": max(ticks, default=None),
        "peak_memory_mb": round(max(found["peak_bytes"] for found in passes) / 1e6, 1),
    }


def _report(
    facts: Document, ways: dict[str, Document], first: Document, *, files: int, per_file: float, images: int,
    per_image: float,
) -> None:  # fmt: skip
    ratio = round(ways[SCAN]["seconds_per_100k"] / ways[BARE]["seconds_per_100k"], 2)
    budget_s = ScanRules().budget_s
    first_scan: dict[str, Any] = {
        "seconds_per_100k": first["seconds_per_100k"], "ticks": len(first["ticks"]),
        "longest_tick_s": max(first["ticks"]), "median_tick_s": statistics.median(first["ticks"]),
        "peak_memory_mb": round(first["peak_bytes"] / 1e6, 1),
    }  # fmt: skip
    publish(
        "scan",
        {
            "machine": facts, "files": files, "files_of_folder": FILES_OF_FOLDER, "tick_budget_s": budget_s,
            "ways": ways, "times_a_bare_walk": ratio, "first_scan": first_scan,
            "ledger_bytes_per_registered_file": round(per_file, 1),
            "ledger_bytes_per_indexed_image": round(per_image, 1), "indexed_images": images,
        },
    )  # fmt: skip
    rows = [
        (way, one["seconds_per_100k"], one["cpu_seconds_per_100k"], one["ticks"], one["longest_tick_s"] or "-",
         one["peak_memory_mb"])
        for way, one in ways.items()
    ]  # fmt: skip
    title = f"{files:,} files, nothing new: {ratio:g} times a bare walk"
    print_table(title, ("", "s/100k", "CPU s/100k", "ticks", "longest s", "peak MB"), rows)
    within = ways[SCAN]["longest_tick_s"] < budget_s + 1
    console().print(f"Ticks within {budget_s:g} s and the one file that ends them: {verdict(within)}")
    console().print(f"Ledger: {per_file:.0f} bytes a registered file, {per_image:.0f} an image in a release")


if __name__ == "__main__":
    main()
