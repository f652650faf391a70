"""A scan of one folder against the ledger: what is new or changed is registered, what is gone is deleted."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clip_pipeline.core.paths import path_to_text
from clip_pipeline.core.scan import Walk, compare
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.lookup import known_files_below
from clip_pipeline.ledger.registration import FileFacts, Registration, Submission, register_scan


@dataclass(frozen=True, slots=True)
class ScanRules:
    """How a folder is scanned.

    settle_s: files modified within so many seconds are left for the next scan. budget_s, most: one call stops after
    so long or so many differences and says where to go on, so that a sensor tick stays short on any tree.
    """

    ignore: Sequence[str] = ()
    roots: Sequence[Path] = ()
    settle_s: float = 2.0
    budget_s: float = 20.0
    most: int = 100_000


@dataclass(frozen=True, slots=True)
class Scan:
    """What one scan did. next_after: the path to go on from, None when the folder's end was reached."""

    registration: Registration | None
    gone: int
    unchanged: int
    unsettled: int
    unreadable: tuple[str, ...]
    next_after: str | None


def scan_folder(ledger: Ledger, root: Path, *, rules: ScanRules, source: str = "watch", after: str = "") -> Scan:
    """Bring the ledger up to date with one folder, from the path `after` on.

    A root that cannot be listed changes nothing: a share that is not mounted does not empty the index.
    """
    walk = Walk(root, rules.ignore, rules.roots)
    differences = compare(
        walk.files(after=after),
        known_files_below(ledger, path_to_text(root), after=after),
        unreadable=walk.unreadable,
        settle_s=rules.settle_s,
        most=rules.most,
        deadline=time.monotonic() + rules.budget_s,
    )
    registration = register_scan(
        ledger,
        [FileFacts(file.path, file.size_bytes, file.mtime_ns) for file in differences.new],
        gone=differences.gone,
        submission=Submission(source),
    )
    return Scan(
        registration, len(differences.gone), differences.unchanged, differences.unsettled, tuple(walk.unreadable),
        differences.next_after,
    )  # fmt: skip
