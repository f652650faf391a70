"""The files of one release in the making: old segments linked, new ones built, verified. Publishing is elsewhere."""

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from clip_pipeline.core.errors import IntegrityError
from clip_pipeline.core.manifest import file_sha256
from clip_pipeline.core.release import (
    IdArray,
    Release,
    Segment,
    SegmentBatch,
    write_release,
)
from clip_pipeline.index.acceptance import accept
from clip_pipeline.index.build import build_index, write_index
from clip_pipeline.index.choice import IndexPolicy, choose_index
from clip_pipeline.index.plan import Addition, KeptSegment, ReleasePlan
from clip_pipeline.index.source import SealedSource, VectorBlock
from clip_pipeline.index.verify import RECALL_K


@dataclass(frozen=True, slots=True)
class Provenance:
    """Who publishes: the Dagster run, the version of the code, and when (with a time zone)."""

    run_id: str
    code_version: str
    now: datetime


@dataclass(frozen=True, slots=True)
class Staging:
    """One release in the making, in a temporary folder."""

    source: SealedSource
    plan: ReleasePlan
    folder: Path
    number: int
    policy: IndexPolicy

    def stage(self, provenance: Provenance) -> Release:
        """Every file of the release, verified; `release.json` last."""
        kept = [self._reuse(kept) for kept in self.plan.kept]
        groups = split_additions(self.plan.additions, rows=self.policy.segment_rows)
        built = [self._build(f"{self.number:07d}-{i}", group) for i, group in enumerate(groups)]
        release = self._statement((*kept, *built), provenance)
        release = self._accepted(release)
        write_release(self.folder, release)
        return release

    def _reuse(self, kept: KeptSegment) -> Segment:
        """The files of a segment of the parent, linked; only its dead list is new."""
        segment = kept.segment
        assert self.plan.parent is not None, "a plan without a parent keeps no segment"
        parent_folder = self.source.store.release_dir(self.source.spec.key, self.plan.parent)
        immutable = {name: segment.files[name] for name in (segment.index_file, segment.ids_file)}
        for name in immutable:  # compared with their digests when the release is opened, in `accept`
            link_or_copy(parent_folder / name, self.folder / name)
        dead_file = f"dead-{segment.name}.npy" if kept.dead.size else None
        digests = self._save(dead_file, kept.dead) if dead_file else {}
        return replace(segment, dead=len(kept.dead), dead_file=dead_file, files=immutable | digests)

    def _build(self, name: str, additions: Sequence[Addition]) -> Segment:
        """A new segment over the additions, in their order, its index type chosen by its size."""
        rows = sum(len(addition.image_ids) for addition in additions)
        choice = choose_index(rows, self.source.spec.dim, policy=self.policy)
        index = build_index(choice, self.source.spec.dim, rows=rows, blocks=partial(self._blocks, additions))
        index_file, ids_file = f"segment-{name}.faiss", f"ids-{name}.npy"
        write_index(index, self.folder / index_file)
        ids = np.concatenate(list(self._sealed_order(additions)))
        digests = {index_file: file_sha256(self.folder / index_file)} | self._save(ids_file, ids)
        batches = segment_batches(additions)
        return Segment(name, choice.index_type, rows, 0, batches, index_file, ids_file, None, digests)

    def _blocks(self, additions: Sequence[Addition]) -> Iterator[VectorBlock]:
        return chain.from_iterable(self.source.blocks(a.batch, a.digest, wanted=a.image_ids) for a in additions)

    def _sealed_order(self, additions: Sequence[Addition]) -> Iterator[IdArray]:
        for addition in additions:
            ids = self.source.image_ids(addition.batch)
            yield ids[np.isin(ids, addition.image_ids)]

    def _save(self, name: str, ids: IdArray) -> dict[str, str]:
        np.save(self.folder / name, ids)
        return {name: file_sha256(self.folder / name)}

    def _statement(self, segments: tuple[Segment, ...], provenance: Provenance) -> Release:
        spec = self.source.spec
        return Release(
            number=self.number,
            encoder_name=spec.name,
            model_name=spec.model_name,
            fingerprint=spec.fingerprint,
            dim=spec.dim,
            metric="inner-product",
            images=len(self.plan.content),
            segments=segments,
            recall=0.0,
            recall_k=RECALL_K,
            recall_queries=0,
            parent=self.plan.parent,
            run_id=provenance.run_id,
            code_version=provenance.code_version,
            created_at=f"{provenance.now.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
        )

    def _accepted(self, release: Release) -> Release:
        """The release with its recall, measured on what was written, opened again from its files.

        Raises:
            IntegrityError: counts, ids, the round trip or recall are not as they must be.
        """
        found = accept(self.folder, release, plan=self.plan, source=self.source)
        if found.faults:
            told = "; ".join(f"{fault.check}: {fault.detail}" for fault in found.faults)
            raise IntegrityError(f"release {release.number} is not published, the current one stays: {told}")
        return replace(release, recall=found.recall, recall_queries=found.queries)


def split_additions(additions: Sequence[Addition], *, rows: int) -> list[list[Addition]]:
    """The additions in order, in groups of at most `rows` rows; a larger batch is a group of its own."""
    groups: list[list[Addition]] = []
    size = 0
    for addition in additions:
        if not groups or size + len(addition.image_ids) > rows:
            groups.append([])
            size = 0
        groups[-1].append(addition)
        size += len(addition.image_ids)
    return groups


def segment_batches(additions: Sequence[Addition]) -> tuple[SegmentBatch, ...]:
    """Which rows of a new segment belong to which batch."""
    ends = np.cumsum([len(addition.image_ids) for addition in additions]).tolist()
    return tuple(
        SegmentBatch(str(a.batch), a.digest, end - len(a.image_ids), len(a.image_ids))
        for a, end in zip(additions, ends, strict=True)
    )


def link_or_copy(source: Path, target: Path) -> None:
    """A second name for the same bytes, or a copy where the filesystem has no hard links."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copy2(source, target)
