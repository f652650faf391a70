"""`embed_batch` in a process that is killed, and then again."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from clip_pipeline.core.embeddings import SEAL, read_seal
from clip_pipeline.core.errors import StoreError
from clip_pipeline.core.store import Store
from clip_pipeline.embedding.ring import PixelRing
from clip_pipeline_tests.embedding.test_loop import (
    BATCH,
    FORWARD_BATCH,
    LIMITS,
    TINY,
    embed,
    file_bytes,
    manifest_of,
    write_pictures,
)
from clip_pipeline_tests.fakes import HashEncoder

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def ring():
    with PixelRing(TINY, limits=LIMITS, forward_batch=FORWARD_BATCH) as opened:
        yield opened


KILLED = """
import os, signal, sys
from clip_pipeline.core.limits import ImageLimits
from clip_pipeline.core.manifest import read_manifest
from clip_pipeline.core import store as store_module
from clip_pipeline.core.store import Store
from clip_pipeline.embedding.loop import embed_batch
from clip_pipeline_tests.embedding.test_loop import BATCH, FORWARD_BATCH, HashEncoder

def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)

class KilledInTheMiddle(HashEncoder):
    passes = 0
    def encode_images(self, pixels):
        self.passes += 1
        return kill() if self.passes == 3 else super().encode_images(pixels)

encoder = KilledInTheMiddle() if sys.argv[2] == "while embedding" else HashEncoder()
if sys.argv[2] == "while sealing":
    store_module.fsync_path = kill
store = Store(__import__("pathlib").Path(sys.argv[1]))
limits = ImageLimits(timeout_s=30)
embed_batch(store, encoder, read_manifest(store, BATCH), limits=limits, run_id="killed", forward_batch=FORWARD_BATCH)
"""


@pytest.mark.parametrize("moment", ["while embedding", "while sealing"])
def test_killed_and_run_again_a_batch_gives_the_bytes_of_an_undisturbed_run(tmp_path, ring, moment):
    undisturbed, store = Store(tmp_path / "undisturbed"), Store(tmp_path / "store")
    paths = write_pictures(tmp_path, 40)
    embed(undisturbed, manifest_of(undisturbed, paths), ring)
    manifest = manifest_of(store, paths)
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(store.root), moment]
    killed = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=100, check=False)
    assert killed.returncode == -signal.SIGKILL
    key = HashEncoder().spec.key
    with pytest.raises(StoreError):
        read_seal(store, key, BATCH)
    folder = store.embeddings_dir(key, BATCH).parent
    leftovers = list(folder.iterdir()) if folder.exists() else []
    assert all(path.name.startswith(".tmp-") for path in leftovers)
    assert len(leftovers) == (1 if moment == "while sealing" else 0)
    embed(store, manifest, ring)
    assert file_bytes(store) == file_bytes(undisturbed)
    seals = [json.loads((s.embeddings_dir(key, BATCH) / SEAL).read_text()) for s in (store, undisturbed)]
    assert seals[0]["digest"] == seals[1]["digest"]
