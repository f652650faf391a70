"""The grammar of `maintain`, `backup` and `restore`. What they do is in the modules they name."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from clip_pipeline.cli.analysis_grammar import AsJson


class MaintenanceTask(StrEnum):
    """What there is to maintain."""

    COMPACTION = "compaction"
    SEGMENTS = "segments"
    ORPHANS = "orphans"
    VACUUM = "vacuum"
    ALL = "all"


def maintain(
    task: Annotated[
        MaintenanceTask,
        typer.Argument(
            metavar="[TASK]",
            help="compaction: of small batches; segments: of the index; orphans: what nobody owns is removed; "
            "vacuum: of the ledger; all of them, unless given.",
        ),
    ] = MaintenanceTask.ALL,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    older_than: Annotated[
        float | None,
        typer.Option(
            "--older-than",
            metavar="HOURS",
            min=0,
            help="Touch only what was left alone for so long [CLIP_PIPELINE_MAINTENANCE_AFTER_HOURS, 24].",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Do by hand what a running stack does by its schedules. Beside a running stack, too; safe to kill at any moment.

    Compacted batches reach the index with the next merge, which a running stack makes by itself.

    For example:

        clip-pipeline maintain --dry-run

        clip-pipeline maintain orphans --older-than 48 --json
    """
    from clip_pipeline.cli.maintain_command import maintain as run

    run(task.value, dry_run=dry_run, older_than_hours=older_than, as_json=as_json)


def backup(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of backups, outside of the home.")],
    uploads: Annotated[
        bool, typer.Option("--uploads", help="Uploaded images too; without them, waiting analyses fail when restored.")
    ] = False,
    keep: Annotated[
        int | None, typer.Option("--keep", min=1, metavar="N", help="Remove all but the newest N backups afterwards.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Add a backup to a folder: the ledger and everything of the store that it names, at one moment.

    A running stack goes on working. What an earlier backup in that folder holds is not copied again. The images
    themselves are not part of it.

    For example:

        clip-pipeline backup /backups/clip --keep 14
    """
    from clip_pipeline.cli.backup_command import backup as run

    run(folder, with_uploads=uploads, keep=keep, as_json=as_json)


def restore(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of backups.")],
    name: Annotated[str | None, typer.Option("--name", help="Of a backup; the newest, unless given.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make an empty home what a backup holds, and verify it; exits with 12 when there is a fault.

    For example:

        CLIP_PIPELINE_HOME=/srv/clip clip-pipeline restore /backups/clip
    """
    from clip_pipeline.cli.restore_command import restore as run

    run(folder, name=name, as_json=as_json)
