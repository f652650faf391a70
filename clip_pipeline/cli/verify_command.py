"""`clip-pipeline verify`: every check there is, as a table or JSON, and an exit status that says whether all hold."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

from rich.progress import Progress

from clip_pipeline.cli.configuration import existing_ledger, load_settings
from clip_pipeline.cli.output import console, count, error_console, print_json, print_table, progress_bars
from clip_pipeline.core.embeddings import check_unit_length, read_embeddings
from clip_pipeline.core.encoder import EncoderSpec
from clip_pipeline.core.errors import ClipPipelineError, VerificationError
from clip_pipeline.core.manifest import read_manifest
from clip_pipeline.core.pinning import pinned_encoder
from clip_pipeline.core.store import Store
from clip_pipeline.index.verify import VerifyReport, verify_release
from clip_pipeline.ledger.balance import balance
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.publishing import outstanding, recorded_release
from clip_pipeline.ledger.seals import RecordedBatch, recorded_batches, released_images

FAULTS_SHOWN = 5
ATTEMPTS = 4
PAUSE_S = 1.0
RELEASE_CHECKS = {
    "files": "every file of the release has its digest",
    "structure": "counts, id maps and index files fit together",
    "ids": "it shows exactly the ledger's images, once each",
    "embeddings": "it was built from the sealed embeddings",
    "round-trip": "stored vectors find their own image",
    "recall": "search finds what exact search finds",
}
"""Check of `index.verify` -> what it means."""

Advance = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report. ok: None where faults elsewhere kept it from being made."""

    name: str
    ok: bool | None
    detail: str
    faults: Sequence[str] = ()


def verify(*, as_json: bool) -> None:
    """Print the report. Raises VerificationError where there is a fault."""
    settings = load_settings()
    with existing_ledger(settings) as ledger, progress_bars(error_console(), transient=True) as progress:
        checks = all_checks(ledger, settings.store, progress=progress)
    sound = all(check.ok is not False for check in checks)
    if as_json:
        print_json({"ok": sound, "checks": [asdict(check) for check in checks]})
    else:
        print_checks(checks)
    if not sound:
        faulty = ", ".join(check.name for check in checks if check.ok is False)
        raise VerificationError(f"verification failed: {faulty}; the report above says what was found")


def all_checks(ledger: Ledger, store: Store, *, progress: Progress | None = None) -> list[Check]:
    """Every check, in the order of the pipeline."""
    spec = pinned_encoder(store)
    recorded = recorded_batches(ledger)
    checks = [ledger_check(ledger), manifest_check(store, recorded, advance=_task(progress, "manifests"))]
    if spec is not None:
        advance = _task(progress, "embeddings")
        checks.append(embedding_check(store, spec, recorded, advance=advance))
        checks += release_checks(ledger, store, spec)
    return checks


def ledger_check(ledger: Ledger) -> Check:
    """Every file is in one state, and all totals balance."""
    found = balance(ledger)
    states = ", ".join(f"{number:,} {state}" for state, number in found.files.items() if number)
    faults = [f"{name}: {number}" for name, number in found.faults.items()]
    return Check("ledger", found.holds, f"files: {states or 'none'}", faults)


def manifest_check(store: Store, recorded: Sequence[RecordedBatch], *, advance: Advance) -> Check:
    """Every sealed manifest is the one that the ledger recorded."""

    def check(batch: RecordedBatch) -> int:
        rows = read_manifest(store, batch.key, digest=batch.manifest_digest).rows
        if len(rows) != batch.images:
            raise ClipPipelineError(f"manifest of {batch.key}: {len(rows)} rows, recorded were {batch.images}")
        return len(rows)

    return _batch_check("manifests", "manifest", recorded, check, advance=advance)


def embedding_check(store: Store, spec: EncoderSpec, recorded: Sequence[RecordedBatch], *, advance: Advance) -> Check:
    """Every sealed embedding has its digests, unit length, and the seal that the ledger recorded."""

    def check(batch: RecordedBatch) -> int:
        sealed = read_embeddings(store, spec.key, batch.key)
        if sealed.seal.digest != batch.embeddings_digest:
            found, expected = sealed.seal.digest[:12], str(batch.embeddings_digest)[:12]
            raise ClipPipelineError(f"embeddings of {batch.key}: sealed {found}, recorded was {expected}")
        check_unit_length(sealed.vectors)
        return len(sealed.vectors)

    embedded = [batch for batch in recorded if batch.embeddings_digest is not None]
    return _batch_check("embeddings", "vector", embedded, check, advance=advance)


def release_checks(ledger: Ledger, store: Store, spec: EncoderSpec) -> list[Check]:
    """The published release against its files, the ledger, the sealed vectors and exact search.

    A release that is published or recorded meanwhile makes store and ledger differ for a moment: looked at again.
    """
    for attempt in range(ATTEMPTS):
        before = _versions(ledger, store, spec)
        checks = _release_checks(ledger, store, spec)
        is_settled = before == _versions(ledger, store, spec) and before[0] == before[1]
        if is_settled or all(check.ok is not False for check in checks) or attempt == ATTEMPTS - 1:
            return checks
        time.sleep(PAUSE_S)
    raise AssertionError("unreachable")


def _release_checks(ledger: Ledger, store: Store, spec: EncoderSpec) -> list[Check]:
    expected = released_images(ledger)
    due = outstanding(ledger)
    waiting = "up to date" if due.is_empty else f"{due.embedded} images to show, {due.leaving} to remove by the next"
    if store.current_release_number(spec.key) is None:
        faults = [f"the ledger records {len(expected)} images in a release"] if expected.size else []
        return [Check("release", not faults, f"none is published yet; {waiting}", faults)]
    try:
        report = verify_release(store, spec, expected=expected)
    except ClipPipelineError as error:
        return [Check("release", False, "it cannot be read", [str(error)])]
    release = report.release
    summary = f"{release.number:07d}, {count(release.images, 'image')}, {len(release.segments)} segments; {waiting}"
    return [Check("release", True, summary), *_report_checks(report)]


def _report_checks(report: VerifyReport) -> list[Check]:
    by_check: dict[str, list[str]] = {name: [] for name in RELEASE_CHECKS}
    for fault in report.faults:
        by_check.setdefault(fault.check, []).append(fault.detail)
    measured = ", ".join(f"@{entry.k} {entry.recall:.4f}" for entry in report.recall)
    was_measured = bool(report.recall)
    checks: list[Check] = []
    for name, faults in by_check.items():
        needs_vectors = name in ("round-trip", "recall")
        ok = None if needs_vectors and not was_measured and not faults else not faults
        detail = f"{RELEASE_CHECKS.get(name, name)}" + (f": {measured}" if name == "recall" and measured else "")
        checks.append(Check(name, ok, detail, faults))
    return checks


def _batch_check(
    name: str,
    noun: str,
    recorded: Sequence[RecordedBatch],
    check: Callable[[RecordedBatch], int],
    *,
    advance: Advance,
) -> Check:
    faults: list[str] = []
    total = 0
    for number, batch in enumerate(recorded, start=1):
        try:
            total += check(batch)
        except (ClipPipelineError, OSError, ValueError) as error:
            faults.append(str(error))
        advance(number, len(recorded))
    what = count(total, noun) if noun == "vector" else count(total, "image")
    return Check(
        name, not faults, f"{what} in {count(len(recorded), 'batch')} as sealed".replace("batchs", "batches"), faults
    )


def _versions(ledger: Ledger, store: Store, spec: EncoderSpec) -> tuple[int | None, int | None]:
    return store.current_release_number(spec.key), recorded_release(ledger, spec.key)


def print_checks(checks: Iterable[Check]) -> None:
    """The report as a table, with the first faults of each check."""
    words = {True: "ok", False: "FAULT", None: "not made"}
    rows: list[tuple[str, str, str]] = []
    for check in checks:
        rows.append((words[check.ok], check.name, check.detail))
        rows += [("", "", f"- {fault}") for fault in check.faults[:FAULTS_SHOWN]]
        if len(check.faults) > FAULTS_SHOWN:
            rows.append(("", "", f"- and {len(check.faults) - FAULTS_SHOWN} more; see --json"))
    print_table("", ["", "check", "what was found"], rows)
    console().print()


def _task(progress: Progress | None, name: str) -> Advance:
    if progress is None:
        return lambda _done, _total: None
    task = progress.add_task(f"Reading {name}", total=None)
    return lambda done, total: progress.update(task, completed=done, total=total)
