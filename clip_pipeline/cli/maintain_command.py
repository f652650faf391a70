"""`clip-pipeline maintain`: what the scheduled maintenance jobs do, by hand; with `--dry-run`, what they would do."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from rich.progress import Progress

from clip_pipeline.cli.configuration import existing_ledger, load_settings
from clip_pipeline.cli.output import console, count, error_console, print_json, print_table, progress_bars
from clip_pipeline.core.keys import BatchKey
from clip_pipeline.defs.maintenance.compaction import compact_batches, planned_groups
from clip_pipeline.defs.maintenance.orphans import Sweep, find_orphans, sweep_orphans
from clip_pipeline.defs.maintenance.segments import compact_segments, worn_segments
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.upkeep import Upkeep, keep_up, look_at
from clip_pipeline.settings import Settings

LINES_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Maintenance:
    """Where to work, what to leave alone, and where to say how far it is."""

    ledger: Ledger
    settings: Settings
    older_than: datetime
    progress: Progress


@dataclass(frozen=True, slots=True)
class Told:
    """What a task did or would do: for scripts, in a sentence, and line by line."""

    document: Mapping[str, object]
    sentence: str
    lines: Sequence[str] = ()


def maintain(task: str, *, dry_run: bool, older_than_hours: float | None, as_json: bool) -> None:
    """Do one task, or all of them in a sensible order."""
    settings = load_settings(maintenance_after_hours=older_than_hours)
    tasks = LOOKS if dry_run else TASKS
    with existing_ledger(settings) as ledger, progress_bars(error_console(), transient=True) as progress:
        older_than = datetime.now(UTC) - timedelta(hours=settings.maintenance_after_hours)
        work = Maintenance(ledger, settings, older_than, progress)
        told = {name: tasks[name](work) for name in (TASKS if task == "all" else (task,))}
    if as_json:
        print_json({"dry_run": dry_run, **{name: one.document for name, one in told.items()}})
    else:
        _print(told, dry_run=dry_run)


def _compact(work: Maintenance) -> Told:
    task = work.progress.add_task("Compacting", total=None)
    done = compact_batches(
        work.ledger, work.settings.store, batch_size=work.settings.batch_size, older_than=work.older_than,
        run_id=_run_id(), on_progress=lambda n, total: work.progress.update(task, completed=n, total=total),
    )  # fmt: skip
    made = [(str(batch.key), _texts(batch.compacted_from), batch.images) for batch in done.compacted]
    document = {
        "compacted": [{"batch": key, "compacted_from": sources, "images": images} for key, sources, images in made],
        "postponed": done.postponed,
        "cleared": _texts(done.removed),
    }
    merged = "; the next merge puts them into the index" if made else ""
    return Told(
        document,
        f"{_batches(sum(len(sources) for _, sources, _ in made))} became {len(made)}{merged}; files of "
        f"{_batches(len(done.removed))} that were compacted before are gone",
        [f"{key}: {_batches(len(sources))}, {count(images, 'image')}" for key, sources, images in made],
    )


def _look_for_groups(work: Maintenance) -> Told:
    groups = planned_groups(work.ledger, batch_size=work.settings.batch_size, older_than=work.older_than)
    found = [(_texts([b.key for b in group]), sum(b.images for b in group)) for group in groups]
    return Told(
        {"would_compact": [{"compacted_from": sources, "images": images} for sources, images in found]},
        f"{_batches(sum(len(sources) for sources, _ in found))} would become {len(found)}",
        [f"{sources[0]} to {sources[-1]}: {_batches(len(sources))}, {images:,} images" for sources, images in found],
    )


def _compact_segments(work: Maintenance) -> Told:
    _, worn = worn_segments(work.settings.store)
    result = compact_segments(work.ledger, work.settings.store, run_id=_run_id())
    if result is None:
        return Told({"worn_segments": len(worn), "release": None}, "the release stays as it is")
    release = result.release
    return Told(
        {"worn_segments": len(worn), "release": release.number, "segments": len(release.segments)},
        f"release {release.number:07d} shows the same images in {count(len(release.segments), 'segment')}",
    )


def _look_at_segments(work: Maintenance) -> Told:
    release, worn = worn_segments(work.settings.store)
    segments = len(release.segments) if release else 0
    return Told(
        {"worn_segments": len(worn), "segments": segments},
        f"{len(worn)} of {count(segments, 'segment')} would be rebuilt",
    )


def _sweep(work: Maintenance) -> Told:
    return _swept(sweep_orphans(work.ledger, work.settings.store, older_than=work.older_than), "removed")


def _look_for_orphans(work: Maintenance) -> Told:
    return _swept(find_orphans(work.ledger, work.settings.store, older_than=work.older_than), "would be removed")


def _swept(swept: Sweep, verb: str) -> Told:
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in swept.counts.items()) or "nothing"
    paths = [str(orphan.path) for orphan in swept.orphans]
    return Told(
        {"orphans": len(paths), "bytes": swept.size_bytes, "kinds": swept.counts, "paths": paths},
        f"{verb}: {kinds} ({swept.size_bytes / 1e6:,.1f} MB)",
        paths,
    )


def _vacuum(work: Maintenance) -> Told:
    done = keep_up(work.ledger, most_bytes=None)
    return _kept_up(
        done, "it was written anew" if done.vacuumed else "its statistics are fresh", vacuumed=done.vacuumed
    )


def _look_at_ledger(work: Maintenance) -> Told:
    found = look_at(work.ledger)
    return _kept_up(found, "it would be written anew" if found.is_due else "it is in shape", vacuumed=found.is_due)


def _kept_up(found: Upkeep, verdict: str, *, vacuumed: bool) -> Told:
    return Told(
        {"bytes": found.database_bytes, "free_bytes": found.free_bytes, "vacuumed": vacuumed},
        f"the ledger takes {found.database_bytes / 1e6:,.1f} MB, {found.free_bytes / 1e6:,.1f} of them free; {verdict}",
    )


Task = Callable[[Maintenance], Told]
TASKS: Mapping[str, Task] = {
    "compaction": _compact, "segments": _compact_segments, "orphans": _sweep, "vacuum": _vacuum,
}  # fmt: skip
LOOKS: Mapping[str, Task] = {
    "compaction": _look_for_groups, "segments": _look_at_segments, "orphans": _look_for_orphans,
    "vacuum": _look_at_ledger,
}  # fmt: skip


def _run_id() -> str:
    """What a batch or release that was made by hand says it was made by."""
    return f"maintain-{secrets.token_hex(4)}"


def _texts(keys: Sequence[BatchKey]) -> list[str]:
    return [str(key) for key in keys]


def _batches(number: int) -> str:
    return f"{number:,} {'batch' if number == 1 else 'batches'}"


def _print(told: Mapping[str, Told], *, dry_run: bool) -> None:
    rows: list[tuple[str, str]] = []
    for name, one in told.items():
        rows.append((name, one.sentence))
        rows += [("", line) for line in one.lines[:LINES_SHOWN]]
        if len(one.lines) > LINES_SHOWN:
            rows.append(("", f"and {len(one.lines) - LINES_SHOWN} more; see --json"))
    print_table("", ["task", "what would be done" if dry_run else "what was done"], rows)
    console().print()
