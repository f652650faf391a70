"""The grammar of `worker` and `workers`. What they do is in the modules they name, imported when one of them runs."""

import platform
from typing import Annotated

import typer

from clip_pipeline.cli.analysis_grammar import AsJson


def worker(
    *,
    host: Annotated[
        str, typer.Option("--host", help="Address at which the controller finds it, as the fleet file has it.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port of its code server.")] = 4000,
    listen: Annotated[
        str | None, typer.Option("--listen", help="Address to bind to where that is another one, such as 0.0.0.0.")
    ] = None,
    gpu: Annotated[
        str, typer.Option("--gpu", metavar="DEVICE", help="auto, cpu, cuda, cuda:N, or all: a server for each GPU.")
    ] = "auto",
    name: Annotated[str | None, typer.Option("--name", help="What people call it; else the host's name.")] = None,
    drain: Annotated[
        float, typer.Option("--drain", min=0, metavar="SECONDS", help="For its runs to end when it is told to stop.")
    ] = 600.0,
    check: Annotated[bool, typer.Option("--check", help="Only make the checks.")] = False,
    renew_canary: Annotated[
        bool, typer.Option("--renew-canary", help="Make this worker's vectors golden, whatever was. Implies --check.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --check: print the findings as JSON.")] = False,
) -> None:
    """Take runs that need the encoder from a controller; stop with Ctrl-C or SIGTERM.

    It starts the code server of location `gpu` and keeps it running, once its checks hold: Dagster, ledger and store
    are the controller's and can be reached, versions and clocks agree, the device computes, the encoder loads, and it
    reproduces golden embeddings of eight pictures. `clip-pipeline workers` shows it. Told to stop it takes no new run,
    lets those under way end, and ends them after `--drain` seconds or at a second signal; Dagster retries them.

    Code servers execute what they are told: let only the controller reach the port.

    For example:

        clip-pipeline worker --host gpu01 --gpu all

        clip-pipeline worker --host gpu01 --port 4001 --gpu cuda:1 --check
    """
    from clip_pipeline.cli.worker_command import WorkerOptions
    from clip_pipeline.cli.worker_command import check as run_check
    from clip_pipeline.cli.worker_command import serve as run

    options = WorkerOptions(host, port, listen, name or platform.node() or host, gpu, drain)
    if check or renew_canary:
        run_check(options, renew_canary=renew_canary, as_json=as_json)
    else:
        run(options)


def workers(
    *,
    forget: Annotated[
        str | None, typer.Option("--forget", metavar="ADDRESS", help="Strike one off that will not come back.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the workers: who is alive, on what, with which runs, how fast; who is lost, and for how long.

    Those that the fleet file (CLIP_PIPELINE_FLEET) names and that never reported are `absent`.

    For example:

        clip-pipeline workers

        clip-pipeline workers --forget gpu07:4000
    """
    from clip_pipeline.cli.workers_command import forget as run_forget
    from clip_pipeline.cli.workers_command import show as run

    if forget is not None:
        run_forget(forget)
    else:
        run(as_json=as_json)
