"""SIGKILL at any moment of maintenance: the home is sound where it stops, and the next run brings it to its end."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from clip_pipeline.defs.maintenance.compaction import compact_batches
from clip_pipeline.defs.maintenance.orphans import find_orphans, sweep_orphans
from clip_pipeline.defs.maintenance.segments import compact_segments
from clip_pipeline.index import compact
from clip_pipeline.ledger.compaction import all_retired
from clip_pipeline.ledger.publishing import outstanding
from clip_pipeline.ledger.upkeep import keep_up
from clip_pipeline_tests.small_home import SmallHome, a_day_ago

ROOT = Path(__file__).resolve().parents[3]
FILE_EVENTS = ("open", "os.", "shutil.", "fcntl.", "sqlite3.")
FEW_KILLS, MANY_KILLS = 5, 80


def worn(home):
    """A home that every kind of maintenance has something to do in."""
    for _ in range(compact.MAX_SEGMENTS + 1):
        home.add_many(1)
        home.merge()
    home.add("good.jpg", "bad.jpg", failing=["bad.jpg"])
    home.remove("0-0.jpg")
    home.merge()
    home.age()
    for path in (".tmp-a-1", "uploads/aa/" + "a" * 64, "thumbnails/bb/" + "b" * 64 + ".webp", "manifests/.tmp-b-1"):
        (home.store.root / path).parent.mkdir(parents=True, exist_ok=True)
        (home.store.root / path).write_bytes(b"x")
    key = home.spec.key
    shutil.copytree(home.store.root / f"embeddings/{key}/b0000001", home.store.root / f"embeddings/{key}/b0000999")
    home.age_files()


def compaction(home):
    compact_batches(home.ledger, home.store, batch_size=12, older_than=a_day_ago(), run_id="r")


def clearing(home):
    """Compaction again, with files of compacted batches to be cleared away."""
    home.age_retired()
    compaction(home)


def segments(home):
    compact_segments(home.ledger, home.store, run_id="r")


def orphans(home):
    sweep_orphans(home.ledger, home.store, older_than=a_day_ago())


def vacuum(home):
    keep_up(home.ledger, most_bytes=None)


TASKS = {task.__name__: task for task in (compaction, clearing, segments, orphans, vacuum)}


def in_child(work):
    """What some work gave in a process of its own, or None if that was killed. This one never has FAISS's threads.

    A child that fails otherwise fails this process.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            said = json.dumps(work()).encode()
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(said)
        except BaseException:  # noqa: BLE001  it would be lost with the process
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        return None
    assert said, "the child failed"
    return json.loads(said)


def run_killed(root, task, kill_at):
    """Do the task on the home, killed at its n-th operation on files or on the database; how many there were."""
    home = SmallHome(root)
    counted = 0

    def happens(*_):
        nonlocal counted
        counted += 1
        if counted == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(lambda name, _: happens() if name.startswith(FILE_EVENTS) else None)
    event.listen(Engine, "before_cursor_execute", happens)
    event.listen(Engine, "commit", happens)
    TASKS[task](home)
    return counted


def same(home, answers):
    return json.loads(json.dumps(home.answers())) == answers


def check(root, task, answers):
    """Sound as it is; after the task is done again, merged and swept, too; the same is found at all times."""
    home = SmallHome(root)
    assert home.faults() == []
    assert same(home, answers)
    home.age_files()
    TASKS[task](home)
    assert same(home, answers)
    assert task not in ("compaction", "clearing") or all_retired(home.ledger)
    if not outstanding(home.ledger).is_empty:
        home.merge()
    assert same(home, answers)
    home.age_files()
    orphans(home)
    assert find_orphans(home.ledger, home.store, older_than=a_day_ago()).orphans == ()
    assert home.faults() == []
    return True


def prepare(root, task):
    home = SmallHome(root)
    worn(home)
    if task == "clearing":
        compaction(home)
        for number in range(6):  # the releases before, which name the old batches, go
            home.add(f"later {number}.jpg")
            home.merge()
        home.age()
        home.age_files()
    answers = home.answers()
    home.close()
    return answers


def kill_many(root, task, kills):
    """Kill the task at so many of its moments, spread over all of them; prints how many were killed."""
    compact.MAX_SEGMENTS = 3
    original = root / "home"
    answers = in_child(lambda: prepare(original, task))
    shutil.copytree(original, root / "counted")
    counted = in_child(lambda: run_killed(root / "counted", task, None))
    assert counted
    rng = random.Random(task)
    moments = range(1, counted + 1) if kills >= counted else sorted(rng.sample(range(1, counted + 1), kills))
    killed = 0
    for moment in moments:
        copy = root / f"at-{moment}"
        shutil.copytree(original, copy)
        killed += in_child(lambda at=moment, where=copy: run_killed(where, task, at)) is None
        assert in_child(lambda where=copy: check(where, task, answers)), (task, moment)
        shutil.rmtree(copy)
    sys.stdout.write(f"{counted} {killed}\n")


def killed(tmp_path, task, kills):
    code = (
        "import sys; from clip_pipeline_tests.defs.maintenance.test_kills import Path, kill_many; "
        "kill_many(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(tmp_path), task, str(kills)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [int(number) for number in done.stdout.split()]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("task", ["compaction", "orphans"])
def test_killed_at_some_moments_nothing_is_lost_and_the_next_run_finishes(tmp_path, task):
    counted, kills = killed(tmp_path, task, FEW_KILLS)
    assert counted > 20
    assert kills >= FEW_KILLS - 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("task", TASKS)
def test_killed_at_any_moment_nothing_is_lost_and_the_next_run_finishes(tmp_path, task):
    counted, kills = killed(tmp_path, task, MANY_KILLS)
    assert kills >= min(MANY_KILLS, counted) - 2
