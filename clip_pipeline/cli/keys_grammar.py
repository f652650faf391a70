"""The grammar of `keys`. What its commands do is in the module they name, imported when one of them runs."""

from enum import StrEnum
from typing import Annotated

import typer

from clip_pipeline.cli.analysis_grammar import AsJson

keys = typer.Typer(help="Create, list and revoke the keys of the HTTP service.", no_args_is_help=True)


class KeyScope(StrEnum):
    """What a key may do, as the ledger has it, whose modules would take time to import."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


@keys.command("create")
def keys_create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whom or what the key is for.")],
    scope: Annotated[KeyScope, typer.Option("--scope", help="Each includes those before it.")] = KeyScope.READ,
    expires: Annotated[
        str, typer.Option("--expires", metavar="TIME", help="90d, 12h, 30m, 2w from now, or never.")
    ] = "90d",
    as_json: AsJson = False,
) -> None:
    """Create a key and print it, once: nothing can show it again.

    `read` searches and looks, `write` also submits, retries, cancels and removes, `admin` may do everything. From the
    first key on every request to the HTTP service needs one, and the service may bind beyond this machine.

    For example:

        clip-pipeline keys create laptop

        KEY=$(clip-pipeline keys create importer --scope write --expires 30d)
    """
    from clip_pipeline.cli.keys_command import create as run

    run(name, scope=scope, expires=expires, as_json=as_json)


@keys.command("list")
def keys_list(as_json: AsJson = False) -> None:
    """List every key: id, scope, state, when it expires and was last used. Never the key itself.

    For example:

        clip-pipeline keys list --json
    """
    from clip_pipeline.cli.keys_command import list_all as run

    run(as_json=as_json)


@keys.command("revoke")
def keys_revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `keys list` shows it.")], as_json: AsJson = False
) -> None:
    """Make a key useless, for good; running services know within seconds.

    For example:

        clip-pipeline keys revoke 3f9a0c51b2e7
    """
    from clip_pipeline.cli.keys_command import revoke as run

    run(key_id, as_json=as_json)
