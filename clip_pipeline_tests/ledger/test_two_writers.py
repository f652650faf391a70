"""Two runs on one batch: one that Dagster gave up for lost and that woke up again, and the one that took its place."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from clip_pipeline.core.embeddings import Quarantined, Seal, read_embeddings, read_seal
from clip_pipeline.core.errors import ConflictError
from clip_pipeline.core.keys import BatchKey
from clip_pipeline.core.manifest import Manifest, write_manifest
from clip_pipeline.core.reasons import Reason, ReasonCode
from clip_pipeline.core.store import Store
from clip_pipeline.embedding.sealing import Embedded, seal_embeddings
from clip_pipeline.ledger.balance import balance
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.embedding_results import begin_embedding, record_embeddings, record_progress
from clip_pipeline.ledger.schema import batches
from clip_pipeline.ledger.seals import recorded_batches
from clip_pipeline_tests.fakes import HashEncoder
from clip_pipeline_tests.ledger.steps import inspect, plan, register

SPEC = HashEncoder().spec
LOST, SUCCESSOR = "lost-run", "its-successor"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@dataclass
class Writer:
    """What a run does with a batch, step by step; its vectors differ from those of any other run.

    The lost run could not read the first image: its disk was away.
    """

    ledger: Ledger
    store: Store
    manifest: Manifest
    run_id: str
    seal: Seal | None = None

    def steps(self) -> Iterator[Callable[[], None]]:
        yield from (self.begin, self.report, self.publish, self.record)

    def begin(self) -> None:
        begin_embedding(self.ledger, self.manifest.batch, run_id=self.run_id)

    def report(self) -> None:
        record_progress(self.ledger, self.manifest.batch, processed=1, run_id=self.run_id)

    def publish(self) -> None:
        rows = self.manifest.rows
        unread = 1 if self.run_id == LOST else 0
        vectors = np.random.default_rng(len(self.run_id)).standard_normal((len(rows) - unread, SPEC.dim))
        unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
        quarantined = tuple(Quarantined(row, Reason(ReasonCode.UNREADABLE)) for row in rows[:unread])
        self.seal = seal_embeddings(
            self.store,
            SPEC,
            self.manifest,
            embedded=Embedded(tuple(rows[unread:]), unit),
            quarantined=quarantined,
            run_id=self.run_id,
        )

    def record(self) -> None:
        assert self.seal is not None
        rows = self.manifest.rows
        unread = self.seal.quarantined
        record_embeddings(
            self.ledger,
            self.manifest.batch,
            embedded=[row.image_id for row in rows[unread:]],
            quarantined=[(row.image_id, Reason(ReasonCode.UNREADABLE)) for row in rows[:unread]],
            manifest_digest=self.manifest.digest,
            embeddings_digest=self.seal.digest,
            run_id=self.run_id,
            is_still_sealed=lambda: read_seal(self.store, SPEC.key, self.manifest.batch) == self.seal,
        )


def new_batch(ledger: Ledger, store: Store, name: str) -> Manifest:
    """A batch of three images with its manifest sealed."""
    contents = {f"/photos/{name}-{n}.png": f"{name} {n}" for n in range(3)}
    register(ledger, *contents)
    (batch,) = plan(ledger)
    rows = inspect(ledger, batch, contents)
    return write_manifest(store, batch, rows)


def run_interleaved(turns: str, lost: Writer, successor: Writer) -> list[str]:
    """Do the steps of both in the order of `turns` (`l`, `s`); a run that is refused a step takes no more of them."""
    steps = {"l": lost.steps(), "s": successor.steps()}
    refused: list[str] = []
    for turn in turns:
        if turn in refused:
            continue
        try:
            next(steps[turn])()
        except ConflictError:
            refused.append(turn)
    return refused


def interleavings() -> list[str]:
    return ["".join("l" if i in chosen else "s" for i in range(8)) for chosen in combinations(range(8), 4)]


def processed(ledger: Ledger, batch: BatchKey) -> tuple[int, str]:
    with ledger.read() as connection:
        row = connection.execute(
            select(batches.c.processed, batches.c.run_id).where(batches.c.number == batch.number)
        ).one()
        return row.processed, row.run_id


def test_in_whatever_order_two_runs_work_on_a_batch_the_ledger_tells_of_the_files_on_disk(ledger: Ledger, store: Store):
    for turns in interleavings():
        manifest = new_batch(ledger, store, turns)
        refused = run_interleaved(
            turns, Writer(ledger, store, manifest, LOST), Writer(ledger, store, manifest, SUCCESSOR)
        )
        assert len(refused) < 2, turns
        sealed = read_embeddings(store, SPEC.key, manifest.batch)
        recorded = recorded_batches(ledger)[-1]
        assert recorded.embeddings_digest == sealed.seal.digest, turns
        counts = balance(ledger)
        assert counts.holds
        failed = sum(read_seal(store, SPEC.key, batch.key).quarantined for batch in recorded_batches(ledger))
        assert counts.images["failed"] == failed, turns
    assert len(list((store.root / "embeddings" / SPEC.key).iterdir())) == len(interleavings())


def test_a_run_that_wakes_up_is_stopped_at_its_next_report_and_changes_no_count(ledger: Ledger, store: Store):
    manifest = new_batch(ledger, store, "x")
    lost, successor = (Writer(ledger, store, manifest, name) for name in (LOST, SUCCESSOR))
    lost.begin()
    lost.report()
    successor.begin()
    record_progress(ledger, manifest.batch, processed=2, run_id=SUCCESSOR)
    with pytest.raises(ConflictError, match="taken over by another run"):
        lost.report()
    assert processed(ledger, manifest.batch) == (2, SUCCESSOR)


def test_a_run_that_wakes_up_before_anybody_took_its_place_finishes_its_batch(ledger: Ledger, store: Store):
    manifest = new_batch(ledger, store, "x")
    lost = Writer(ledger, store, manifest, LOST)
    for step in lost.steps():
        step()
    assert recorded_batches(ledger)[-1].embeddings_digest == read_seal(store, SPEC.key, manifest.batch).digest


def test_a_manifest_sealed_anew_may_be_embedded_by_whoever_comes_first(ledger: Ledger, store: Store):
    manifest = new_batch(ledger, store, "x")
    for step in Writer(ledger, store, manifest, LOST).steps():
        step()
    inspect(ledger, manifest.batch, {f"/photos/x-{n}.png": f"x {n}" for n in range(3)}, run_id="another-manifest-run")
    record_progress(ledger, manifest.batch, processed=1, run_id=SUCCESSOR)
    assert processed(ledger, manifest.batch) == (1, SUCCESSOR)
