"""The grammar of the command line: commands, options and help. What a command does is in the module it names.

Those modules are imported when their command runs: `--help` answers at once, and only what needs torch waits for it.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from clip_pipeline import __version__
from clip_pipeline.cli.analysis_grammar import AsJson, analyze, labels
from clip_pipeline.cli.fleet_grammar import worker, workers
from clip_pipeline.cli.keeping_grammar import backup, maintain, restore
from clip_pipeline.cli.keys_grammar import keys
from clip_pipeline.cli.migrate_grammar import migrate
from clip_pipeline.core.errors import ClipPipelineError
from clip_pipeline.core.reasons import ReasonCode

EPILOG = (
    "State lies below CLIP_PIPELINE_HOME (default ./.clip_pipeline). Every setting is a variable CLIP_PIPELINE_*; "
    "options win over variables."
)

app = typer.Typer(
    name="clip-pipeline",
    help="A growing pile of images, turned into a searchable, verified CLIP index by Dagster runs.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(keys, name="keys", rich_help_panel="Keep")
app.add_typer(labels, name="labels", rich_help_panel="Keep")

Watch = Annotated[
    list[Path] | None,
    typer.Option("--watch", "-w", metavar="DIR", help="Folder to keep indexed; may be given several times."),
]
Port = Annotated[
    int | None,
    typer.Option("--port", min=0, max=65535, help="Port of the search API [CLIP_PIPELINE_PORT, 8000]; 0: any."),
]
DagsterPort = Annotated[
    int | None,
    typer.Option(
        "--dagster-port", min=0, max=65535, help="Port of the Dagster UI [CLIP_PIPELINE_DAGSTER_PORT, 3000]; 0: any."
    ),
]
Encoder = Annotated[
    str | None,
    typer.Option(
        "--encoder",
        metavar="NAME",
        help="auto, builtin, a Hugging Face id (openai/clip-vit-large-patch14) or a model folder; decided once.",
    ),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"clip-pipeline {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """A growing pile of images, turned into a searchable, verified CLIP index by Dagster runs.

    A first try: `clip-pipeline demo`. Your pictures: `clip-pipeline up --watch ~/Pictures`, then, in another
    terminal, `clip-pipeline search "a red bicycle"`.
    """


@app.command(rich_help_panel="Run")
def up(watch: Watch = None, port: Port = None, dagster_port: DagsterPort = None, encoder: Encoder = None) -> None:
    """Start everything on this machine, keep it running, stop it together with Ctrl-C.

    That is the Dagster webserver and daemon, the code locations `control` and `gpu`, and the search API. A part that
    dies is started again. Images below watched folders are indexed by themselves: new, changed and deleted ones.

    For example:

        clip-pipeline up --watch ~/Pictures

        clip-pipeline up --watch /data/a --watch /data/b --port 8080 --dagster-port 3030
    """
    from clip_pipeline.cli.up_command import up as run

    run(watch=watch, port=port, dagster_port=dagster_port, encoder=encoder)


@app.command(rich_help_panel="Run")
def demo(
    images: Annotated[
        Path | None, typer.Option("--images", metavar="DIR", help="Folder to index; sample photographs by default.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Stop and exit after the queries.")] = False,
    port: Port = None,
    dagster_port: DagsterPort = None,
    encoder: Encoder = None,
) -> None:
    """Index a folder with progress bars, ask three texts and one image, then serve until Ctrl-C.

    Without `--images`: about 20 photographs that come with scikit-image and scikit-learn. Run again, it embeds
    nothing anew. This is what `make run` calls.

    For example:

        clip-pipeline demo

        clip-pipeline demo --images ~/Pictures --once
    """
    from clip_pipeline.cli.demo_command import demo as run

    run(images, once=once, port=port, dagster_port=dagster_port, encoder=encoder)


@app.command(rich_help_panel="Run")
def api(port: Port = None) -> None:
    """Serve the search API alone, as `up` does among other things.

    For a machine where each part is a service of its own: the Dagster webserver, its daemon and the code servers are
    then somebody else's to run.

    For example:

        clip-pipeline api --port 8080
    """
    from clip_pipeline.cli.api_command import api as run

    run(port=port)


@app.command(rich_help_panel="Run")
def kafka() -> None:
    """Take uploads in from Kafka and write their results to it, as `up` does where a broker is set.

    Topics, messages and guarantees are in docs/kafka.md. Several of these may run at once, on one ledger and store.

    For example:

        CLIP_PIPELINE_KAFKA_BOOTSTRAP=localhost:9092 clip-pipeline kafka
    """
    from clip_pipeline.cli.kafka_command import kafka as run

    run()


@app.command(rich_help_panel="Run")
def init(encoder: Encoder = None, as_json: AsJson = False) -> None:
    """Make the home and its ledger, and decide on the encoder, which never changes afterwards.

    `auto` takes openai/clip-vit-large-patch14 where it is cached or can be downloaded, else the built-in encoder.
    `up` and `demo` do this by themselves at the first start.

    For example:

        clip-pipeline init --encoder openai/clip-vit-large-patch14

        CLIP_PIPELINE_HOME=/data/index clip-pipeline init --encoder builtin
    """
    from clip_pipeline.cli.init_command import init as run

    run(encoder=encoder, as_json=as_json)


app.command(rich_help_panel="Run")(worker)


@app.command(rich_help_panel="Index")
def index(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Image files, and folders of them.")],
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the job, with a progress bar.")] = False,
    priority: Annotated[int, typer.Option("--priority", help="Jobs of a higher priority are worked on first.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Register images to be indexed, folders with everything below them.

    What is indexed and unchanged is skipped; what changed, or failed before, is done anew. The work itself is done
    by a running stack, see `clip-pipeline up`.

    For example:

        clip-pipeline index photo.jpg ~/Pictures/2024 --wait

        clip-pipeline index urgent.png --priority 10 --json
    """
    from clip_pipeline.cli.index_command import index as run

    run(paths, wait=wait, priority=priority, as_json=as_json)


@app.command(rich_help_panel="Search")
def search(
    text: Annotated[str | None, typer.Argument(metavar="[TEXT]", help="What the images show.")] = None,
    image: Annotated[
        Path | None, typer.Option("--image", "-i", metavar="FILE", help="Find images like this one instead.")
    ] = None,
    k: Annotated[int, typer.Option("-k", "--k", min=1, max=1000, help="How many images to find.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Find images by a text, or by an example that need not be indexed.

    Asks the running search API; without one the encoder is loaded for this one question, which takes seconds.

    For example:

        clip-pipeline search "a red bicycle" -k 5

        clip-pipeline search --image example.jpg --json
    """
    from clip_pipeline.cli.search_command import search as run

    run(text, image=image, k=k, as_json=as_json)


app.command(rich_help_panel="Search")(analyze)
app.command(rich_help_panel="Look")(workers)


@app.command(rich_help_panel="Look")
def status(
    job: Annotated[str | None, typer.Argument(metavar="[JOB]", help="A job; without one, the recent jobs.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the jobs, or where one job stands: counts, Dagster runs, failed images.

    For example:

        clip-pipeline status

        clip-pipeline status idx_20251114_143025_7f3a9c --json
    """
    from clip_pipeline.cli.status_command import status as run

    run(job, as_json=as_json)


@app.command(rich_help_panel="Look")
def stats(as_json: AsJson = False) -> None:
    """Show what the index holds: images, encoder, release, size.

    For example:

        clip-pipeline stats --json
    """
    from clip_pipeline.cli.status_command import stats as run

    run(as_json=as_json)


@app.command(rich_help_panel="Look")
def failed(
    reason: Annotated[ReasonCode | None, typer.Option("--reason", metavar="CODE", help="Only this reason.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the files that could not be indexed, each with its reason.

    For example:

        clip-pipeline failed

        clip-pipeline failed --reason truncated --json
    """
    from clip_pipeline.cli.status_command import failed as run

    run(reason, as_json=as_json)


@app.command(rich_help_panel="Keep")
def verify(as_json: AsJson = False) -> None:
    """Check everything that can be checked; exits with 12 when there is a fault.

    That the ledger's totals balance, that every sealed file and every file of the release has its digest, that the
    release shows exactly the images that the ledger says, once each, that stored vectors find their own image, and
    that search finds what exact search finds.

    For example:

        clip-pipeline verify && echo sound
    """
    from clip_pipeline.cli.verify_command import verify as run

    run(as_json=as_json)


@app.command(rich_help_panel="Keep")
def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")], as_json: AsJson = False
) -> None:
    """Write the searchable images' embeddings in the layout of clip-retrieval and its relatives.

    `img_emb/img_emb_0.npy` is float16 [n, d]; row i of `metadata/metadata_0.parquet` describes vector i.

    For example:

        clip-pipeline export /data/embeddings
    """
    from clip_pipeline.cli.export_command import export as run

    run(folder, as_json=as_json)


for keeping in (maintain, backup, restore, migrate):
    app.command(rich_help_panel="Keep")(keeping)


def main() -> None:
    """Run the command line; an expected error is one line on standard error and its own exit status."""
    try:
        app()
    except ClipPipelineError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
