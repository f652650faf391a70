"""The grammar of `migrate`. What it does is in `migrate_command`, imported when it runs."""

from typing import Annotated

import typer

from clip_pipeline.cli.analysis_grammar import AsJson


def migrate(
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="URL", help="Ledger to copy; the SQLite file of the home, unless given."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--to", metavar="URL", help="New database to copy it to [CLIP_PIPELINE_LEDGER_URL]."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Copy the ledger to another database, such as from SQLite to PostgreSQL, every row of it, and prove it equal.

    All or nothing: where it is killed or fails, the new database stays empty, and it can be run again. The old ledger
    is left as it is. Nothing may run on the home meanwhile. The way back is the same, with the two URLs exchanged.

    For example:

        CLIP_PIPELINE_LEDGER_URL=postgresql://clip:secret@db/clip clip-pipeline migrate

        clip-pipeline migrate --from postgresql://clip:secret@db/clip --to sqlite:////data/index/ledger.sqlite3
    """
    from clip_pipeline.cli.migrate_command import migrate as run

    run(source, target, as_json=as_json)
