"""Registering 100,000 paths against ten million known ones in PostgreSQL: part of `benchmarks.register`.

The server is this benchmark's own, on the same machine. What is known was registered by the same call, 100,000 paths
at a time. Each round registers other paths, in a fresh process, with the mix that `benchmarks.register` describes.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

from sqlalchemy import create_engine, text

from benchmarks.postgres_server import SETTINGS, running_postgres
from benchmarks.report import ROOT, console, machine, print_table, progress, publish, verdict
from clip_pipeline.ledger.database import open_ledger
from clip_pipeline.ledger.registration import Submission, register_files

GOAL_S = 5.0
ROUNDS = 3
_STEP = 100_000


def compare(*, known: int, paths: int) -> None:
    """Build what is known, then measure the rounds."""
    facts = machine()
    with running_postgres() as url, progress() as bar:
        task = bar.add_task("Registering what is known", total=known + ROUNDS)
        began = time.monotonic()
        _build(url, known=known, on_step=lambda done: bar.update(task, completed=done))
        build_s = time.monotonic() - began
        database = _settle(url)
        rounds: list[dict[str, Any]] = []
        for number in range(ROUNDS):
            bar.update(task, description=f"Round {number + 1}")
            rounds.append(_in_fresh_process(url, number, known=known, paths=paths))
            bar.advance(task)
    median_s = statistics.median(entry["seconds"] for entry in rounds)
    publish(
        "register_postgres",
        {
            "machine": facts, "known": known, "paths": paths, "database": database, "settings": dict(SETTINGS),
            "build_seconds": round(build_s), "rounds": rounds, "median_seconds": median_s, "goal_seconds": GOAL_S,
            "goal_reached": median_s < GOAL_S,
        },
    )  # fmt: skip
    rows = [(f"round {n}", r["seconds"], r["cpu_seconds"], r["load_average"]) for n, r in enumerate(rounds, start=1)]
    title = f"{paths:,} paths against {known:,} known, {database['version']}"
    print_table(title, ("", "seconds", "CPU s of the client", "load average"), rows)
    console().print(f"Goal under {GOAL_S:g} s: {verdict(median_s < GOAL_S)}")


def measure_round(url: str, number: int, *, known: int, paths: int) -> None:
    """One round in this process; what came of it goes to standard output."""
    from benchmarks.register import submitted_facts  # noqa: PLC0415  (it imports this module)

    submitted = list(submitted_facts(paths, known=known, turn=number))
    ledger = open_ledger(url)
    cpu_before, began = time.process_time(), time.perf_counter()
    done = register_files(ledger, submitted, submission=Submission("cli"))
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu_before
    ledger.close()
    found = {
        "seconds": round(seconds, 3), "cpu_seconds": round(cpu_s, 3), "load_average": round(os.getloadavg()[0], 2),
        "queued": done.new_images_count, "known": done.already_indexed_count,
    }  # fmt: skip
    sys.stdout.write(json.dumps(found))


def _build(url: str, *, known: int, on_step: Any) -> None:
    from benchmarks.register import fact_of  # noqa: PLC0415  (it imports this module)

    ledger = open_ledger(url)
    for start in range(0, known, _STEP):
        step = (fact_of(number) for number in range(start, min(known, start + _STEP)))
        register_files(ledger, step, submission=Submission("cli"))
        on_step(min(known, start + _STEP))
    ledger.close()


def _settle(url: str) -> dict[str, Any]:
    """Have the server do what it does on its own in the hours after a load; returns what it is and what it holds."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in ("VACUUM ANALYZE", "CHECKPOINT"):
            connection.execute(text(statement))
        version = connection.execute(text("SHOW server_version")).scalar_one()
        size = connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one()
    engine.dispose()
    return {"version": f"PostgreSQL {version}", "bytes": size}


def _in_fresh_process(url: str, number: int, *, known: int, paths: int) -> dict[str, Any]:
    command = [
        *(sys.executable, "-m", "benchmarks.register", "--round", url, str(number)),
        *("--known", str(known), "--paths", str(paths)),
    ]
    output = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(output)
