"""A publisher killed with SIGKILL at many moments: whatever it leaves, a reader opens a complete release."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from clip_pipeline.core.release import read_current_release, release_numbers
from clip_pipeline.index import build
from clip_pipeline.index.search import ReleaseReader
from clip_pipeline.index.verify import verify_release
from clip_pipeline_tests.index.sealing import Corpus, random_vectors

ROOT = Path(__file__).resolve().parents[2]
KILLS = 20
FILE_EVENTS = ("open", "os.", "shutil.", "fcntl.")
LIVE = dict.fromkeys(range(60), 1)
LIVE_AFTER = {i: 1 for i in range(60) if i % 6} | dict.fromkeys(range(100, 130), 2)


def publish(root, live, kill_at=None):
    """Merge in a forked child, which counts its file operations (Python reports each one to audit hooks before doing
    it) and kills itself at the `kill_at`-th; returns how many it came to, or None when it was killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        count = 0

        def hook(event, _):
            nonlocal count
            count += event.startswith(FILE_EVENTS)
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        corpus = Corpus(root)
        corpus.live = live
        sys.addaudithook(hook)
        corpus.merge(keep=3)
        os.write(writing, b"%d" % count)
        os._exit(0)
    os.close(writing)
    status = os.waitpid(child, 0)[1]
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    assert (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL) or status == 0, status
    return int(said) if said else None


def check_complete(corpus, *, allowed):
    """The current release passes every check and holds one of the allowed sets of images; returns which."""
    assert verify_release(corpus.store, corpus.spec).faults == ()
    reader = ReleaseReader.open(corpus.store, corpus.spec.key)
    ids = reader.search(random_vectors(1), 1000).ids[0]
    found = set(ids[ids != -1].tolist())
    assert found in [set(live) for live in allowed]
    return found


def kill_many_publishers(root):
    """Each child publishes the state that is not current, and is killed at a later moment than the one before."""
    publish(root, LIVE)
    operations = publish(root, LIVE_AFTER)
    assert operations
    step = operations // KILLS
    for kill_at in range(1, operations, step):
        corpus = Corpus(root)
        current = read_current_release(corpus.store, corpus.spec.key)
        assert current
        came_to = publish(root, LIVE if current.images == len(LIVE_AFTER) else LIVE_AFTER, kill_at)
        os.write(1, b"finished\n" if came_to else b"killed\n")
        # FAISS must not have started its threads in the process that forks, so a process of its own looks.
        watcher = os.fork()
        if not watcher:
            check_complete(corpus, allowed=[LIVE, LIVE_AFTER])
            os._exit(0)
        assert os.waitpid(watcher, 0)[1] == 0, kill_at


def announce_building(root):
    """Merge, saying so when FAISS starts to work, which then goes on for many seconds."""
    fill = build._filled

    def fill_slowly(index, blocks):
        os.write(1, b"building\n")
        return fill(index, (block for block in list(blocks) for _ in range(100_000)))

    build._filled = fill_slowly
    corpus = Corpus(root)
    corpus.live = LIVE_AFTER
    corpus.merge()


def start(function, root):
    """A process of its own that runs a function of this module."""
    code = (
        f"import sys; from clip_pipeline_tests.index.test_kill import Path, {function}; {function}(Path(sys.argv[1]))"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(root)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def two_batches(root):
    corpus = Corpus(root)
    corpus.add(1, range(60))
    corpus.add(2, range(100, 130))
    return corpus


def test_a_publisher_killed_at_any_file_operation_leaves_a_complete_release(tmp_path):
    corpus = two_batches(tmp_path)
    with start("kill_many_publishers", tmp_path) as process:
        output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert output.split().count("killed") >= KILLS
    for corpus.live in (LIVE_AFTER, LIVE):
        corpus.merge(keep=3)
        check_complete(corpus, allowed=[corpus.live])
    numbers = release_numbers(corpus.store, corpus.spec.key)
    entries = sorted(path.name for path in corpus.store.releases_dir(corpus.spec.key).iterdir())
    assert entries == [".lock", *(f"{number:07d}" for number in numbers), "CURRENT"]
    assert len(numbers) == 3


def test_a_publisher_killed_inside_faiss_leaves_the_current_release(tmp_path):
    corpus = two_batches(tmp_path)
    corpus.live = LIVE
    corpus.merge()
    with start("announce_building", tmp_path) as process:
        assert process.stdout
        assert process.stdout.readline() == "building\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL
    check_complete(corpus, allowed=[LIVE])
    corpus.live = LIVE_AFTER
    corpus.merge()
    check_complete(corpus, allowed=[LIVE_AFTER])
