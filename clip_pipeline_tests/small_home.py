"""A home of many small batches, every file of the store as production seals it, whose pictures do not exist.

What works on it without reading an image, works; what embeds anew, fails.
"""

import os
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count

import numpy as np
from sqlalchemy import update

from clip_pipeline.cli.verify_command import all_checks
from clip_pipeline.core.embeddings import Quarantined
from clip_pipeline.core.manifest import write_manifest
from clip_pipeline.core.pinning import pin_encoder
from clip_pipeline.core.reasons import Reason, ReasonCode
from clip_pipeline.core.release import read_release, release_numbers, write_release
from clip_pipeline.core.store import Store
from clip_pipeline.defs.assets.merged_index import merge
from clip_pipeline.embedding.sealing import Embedded, seal_embeddings
from clip_pipeline.index.search import ReleaseReader
from clip_pipeline.ledger.database import open_ledger
from clip_pipeline.ledger.embedding_results import record_embeddings
from clip_pipeline.ledger.inspection_results import files_of_batch, record_inspection, record_manifest
from clip_pipeline.ledger.registration import Submission, register_scan
from clip_pipeline.ledger.schema import batches, files, retired_batches
from clip_pipeline_tests.fakes import HashEncoder
from clip_pipeline_tests.ledger import steps
from clip_pipeline_tests.ledgers import with_tables

LONG_AGO = "2020-01-01T00:00:00.000Z"


class SmallHome:
    """One store and one ledger. A picture is its path, and its content a text made of that."""

    def __init__(self, home, *, ledger_url=None):
        self.store = Store(home / "store")
        self.ledger = open_ledger(with_tables(ledger_url or f"sqlite:///{home / 'ledger.sqlite3'}"))
        self.encoder = HashEncoder()
        self.spec = self.encoder.spec
        pin_encoder(self.store, self.spec)
        self._numbers = count()

    def close(self):
        self.ledger.close()

    def add(self, *names, failing=(), duplicates=None, seed=""):
        """One batch of these pictures, embedded but for the failing ones. duplicates: name -> what it is a copy of."""
        copies = duplicates or {}
        contents = {f"/p/{name}": f"content of {copies.get(name, name)}" for name in (*names, *copies)}
        steps.register(self.ledger, *contents)
        (batch,) = steps.plan(self.ledger)
        results = {file.file_id: steps.found(file.path, contents) for file in files_of_batch(self.ledger, batch)}
        _, rows = record_inspection(self.ledger, batch, results)
        manifest = write_manifest(self.store, batch, rows)
        record_manifest(self.ledger, batch, digest=manifest.digest, rows=len(rows), run_id="run")
        self.embed(batch, manifest, failing=failing, seed=seed)
        return batch

    def embed(self, batch, manifest, *, failing=(), seed=""):
        """Seal and record the embeddings of a manifest; another seed gives other vectors."""
        good = tuple(row for row in manifest.rows if row.path.removeprefix("/p/") not in failing)
        bad = tuple(Quarantined(r, Reason(ReasonCode.TRUNCATED, "half")) for r in manifest.rows if r not in good)
        vectors = self.encoder.encode_texts([seed + row.sha256 for row in good]).astype(np.float16)
        seal = seal_embeddings(
            self.store, self.spec, manifest, embedded=Embedded(good, vectors), quarantined=bad, run_id="run"
        )
        record_embeddings(
            self.ledger, batch, embedded=[row.image_id for row in good],
            quarantined=[(entry.row.image_id, entry.reason) for entry in bad], manifest_digest=manifest.digest,
            embeddings_digest=seal.digest, run_id="run",
        )  # fmt: skip

    def add_many(self, batches, *, of=2):
        """So many batches of so many pictures: `0-0.jpg`, `0-1.jpg`, `1-0.jpg` and so on."""
        numbers = [next(self._numbers) for _ in range(batches)]
        return [self.add(*(f"{number}-{i}.jpg" for i in range(of))) for number in numbers]

    def remove(self, *names):
        """The pictures are gone from their folder."""
        with self.ledger.read() as connection:
            rows = connection.execute(files.select().where(files.c.path.in_([f"/p/{n}" for n in names]))).all()
        register_scan(self.ledger, [], gone=[row.file_id for row in rows], submission=Submission("watch"))

    def merge(self):
        return merge(self.ledger, self.store, self.spec, run_id="run")

    def age(self):
        """Nothing happened to any batch for a long time."""
        with self.ledger.write() as connection:
            connection.execute(update(batches).values(updated_at=LONG_AGO))

    def age_retired(self):
        """Batches were compacted a long time ago."""
        with self.ledger.write() as connection:
            connection.execute(update(retired_batches).values(retired_at=LONG_AGO))

    def age_releases(self):
        """Every release says that it was made a long time ago."""
        for number in release_numbers(self.store, self.spec.key):
            release = read_release(self.store, self.spec.key, number)
            write_release(self.store.release_dir(self.spec.key, number), replace(release, created_at=LONG_AGO))

    def age_files(self, *, hours=48):
        """Nothing in the store was written for so long."""
        then = time.time() - hours * 3600
        for path in self.store.root.rglob("*"):
            os.utime(path, (then, then))

    def faults(self):
        """What `verify` finds."""
        return [(c.name, f) for c in all_checks(self.ledger, self.store) if c.ok is False for f in (c.faults or [""])]

    def answers(self):
        """What searches find: the ids of many queries, and their scores."""
        queries = self.encoder.encode_texts([f"query {i}" for i in range(20)])
        reader = ReleaseReader.open(self.store, self.spec.key)
        found = reader.search(queries, 1000)
        reader.close()
        images = int((found.ids[0] != -1).sum())
        scores = np.round(found.scores[:, :images].astype(np.float64), 4)
        return found.ids[:, :images].tolist(), scores.tolist()


def a_day_ago():
    return datetime.now(UTC) - timedelta(days=1)
