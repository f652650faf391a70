"""The grammar of `clip-pipeline analyze` and `clip-pipeline labels`, as `main.py` is that of the other commands."""

from pathlib import Path
from typing import Annotated

import typer

labels = typer.Typer(help="Create, list, show and use label sets: what images may be called.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Of the label set.")]
Version = Annotated[int | None, typer.Option("--version", min=1, max=2**31 - 1, help="The newest, unless given.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts instead of text for people.")]


def analyze(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Image files; they need not be indexed.")],
    *,
    given: Annotated[
        str | None, typer.Option("--labels", metavar="A,B,C", help="What they may show, in place of a label set.")
    ] = None,
    label_set: Annotated[
        str | None, typer.Option("--label-set", metavar="NAME", help="A label set; without, the one in use.")
    ] = None,
    top_k: Annotated[int | None, typer.Option("--top-k", min=1, help="So many labels of each image.")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the results, or print request ids.")] = True,
    as_json: AsJson = False,
) -> None:
    """Say what images show: the labels that fit each best, with confidences. Asks the running service.

    Exits with 1 where an image failed, and names it; the others are printed all the same.

    For example:

        clip-pipeline analyze photo.jpg --labels "cat,dog,bicycle"

        clip-pipeline analyze *.jpg --label-set everyday --top-k 3 --json
    """
    from clip_pipeline.cli.analyze_command import Wanted
    from clip_pipeline.cli.analyze_command import analyze as run

    run(files, Wanted(given, label_set, top_k), wait=wait, as_json=as_json)


@labels.command("create")
def labels_create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Letters, digits, dots, dashes and underscores.")],
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="UTF-8 text with one label a line; -: standard input.")],
    template: Annotated[
        list[str] | None,
        typer.Option(
            "--template", metavar="TEXT", help="A sentence with {} for the label; several times for their mean."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create a label set, or the next version of one. The same labels and templates stay the version they are.

    For example:

        clip-pipeline labels create animals animals.txt

        printf 'cat\\ndog\\n' | clip-pipeline labels create pets - --template "a photo of a {}" --template "a {}"
    """
    from clip_pipeline.cli.labels_command import create as run

    run(name, file=file, templates=template or (), as_json=as_json)


@labels.command("list")
def labels_list(as_json: AsJson = False) -> None:
    """List every version of every label set, and which one is in use.

    For example:

        clip-pipeline labels list --json
    """
    from clip_pipeline.cli.labels_command import list_all as run

    run(as_json=as_json)


@labels.command("show")
def labels_show(name: Name, version: Version = None, as_json: AsJson = False) -> None:
    """Print the labels of a label set, one a line.

    For example:

        clip-pipeline labels show everyday > mine.txt

        clip-pipeline labels show animals --version 1 --json
    """
    from clip_pipeline.cli.labels_command import show as run

    run(name, version=version, as_json=as_json)


@labels.command("use")
def labels_use(name: Name, version: Version = None, as_json: AsJson = False) -> None:
    """Put a label set in use: for analyses without labels, and for the whole index, which is labelled anew.

    No image is read for that: a running stack scores the stored embeddings.

    For example:

        clip-pipeline labels use animals

        clip-pipeline labels use animals --version 1
    """
    from clip_pipeline.cli.labels_command import use as run

    run(name, version=version, as_json=as_json)
