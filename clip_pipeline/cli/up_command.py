"""`clip-pipeline up`: the stack in the foreground, and what it says while it starts and runs."""

import json
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console

from clip_pipeline import __version__
from clip_pipeline.cli.configuration import folder_list, load_settings
from clip_pipeline.cli.output import error_console
from clip_pipeline.cli.stack.plan import CLI_MODULE, StackPlan
from clip_pipeline.cli.stack.running import RunningStack, started_stack, stop_signals_interrupt
from clip_pipeline.core.encoder import EncoderSpec
from clip_pipeline.core.paths import display_path, path_to_text
from clip_pipeline.core.pinning import pinned_encoder
from clip_pipeline.settings import Settings


def up(*, watch: Sequence[Path] | None, port: int | None, dagster_port: int | None, encoder: str | None) -> None:
    """Run the stack until Ctrl-C or SIGTERM, which is a good end."""
    settings = load_settings(
        watch=folder_list(watch) if watch else None, port=port, dagster_port=dagster_port, encoder=encoder
    )
    news = error_console()
    try:
        with stop_signals_interrupt(), stack_with_news(settings, news) as stack:
            print_addresses(news, stack)
            print_next_steps(news, stack)
            stack.serve()
    except KeyboardInterrupt:
        news.print("Stopped.")


@contextmanager
def stack_with_news(settings: Settings, news: Console) -> Generator[RunningStack, None, None]:
    """A started stack; what happens to it is printed as `news`, what is waited for beside a spinner."""
    news.print(f"clip-pipeline {__version__}, home {settings.home_path}")
    for folder in settings.watch_folders:
        news.print(f"Watching {display_path(path_to_text(folder))}")
    status = news.status("Starting")

    def waiting(what: str) -> None:
        status.update(f"Waiting for {what}")
        status.start()

    def prepare(plan: StackPlan) -> None:
        pin_encoder_first(plan, say=news.print)
        status.start()

    try:
        with started_stack(settings, prepare=prepare, say=news.print, waiting=waiting) as stack:
            status.stop()
            news.print(f"Ready after {stack.seconds:.1f} s.")
            yield stack
    finally:
        status.stop()


def pin_encoder_first(plan: StackPlan, *, say: Callable[[str], None]) -> None:
    """Say which encoder the home is pinned to, after having it chosen where it is not, or another is asked for.

    In a process of its own: choosing needs torch, and this one lives as long as the stack.
    """
    settings = plan.settings
    spec = pinned_encoder(settings.store)
    if spec is not None and _is_meant(settings.encoder, spec):
        say(f"Encoder {spec.name}")
        return
    known = "Looking whether the encoder fits the one of this home"
    say(f"{'Deciding on the encoder, once' if spec is None else known}; its weights may have to be loaded ...")
    command = [sys.executable, "-m", CLI_MODULE, "init", "--json"]
    child = subprocess.run(command, env=plan.environment(), stdout=subprocess.PIPE, text=True, check=False)
    if child.returncode != 0:
        raise typer.Exit(child.returncode)  # the child has said why, on the same standard error
    document = json.loads(child.stdout)
    say(f"Encoder {document['encoder']}: {document['reason']}")


def print_addresses(news: Console, stack: RunningStack) -> None:
    """Where to look."""
    news.print(f"  Search API   {stack.service_url}/api/v1/search?q=a+cat&k=5")
    news.print(f"  Statistics   {stack.service_url}/api/v1/index/stats")
    news.print(f"  Dagster UI   {stack.dagster_url}")
    news.print(f"  Logs         {stack.settings.home_path / 'logs'}")


def print_next_steps(news: Console, stack: RunningStack) -> None:
    """What to do now, in another terminal."""
    if not stack.settings.watch_folders:
        news.print("No folder is watched. Index with `clip-pipeline index FOLDER`, or start with `up --watch FOLDER`.")
    news.print('Then `clip-pipeline search "a red bicycle"` and `clip-pipeline status`. Ctrl-C stops everything.')


def _is_meant(setting: str, spec: EncoderSpec) -> bool:
    """True where the setting is satisfied by what is pinned, as far as can be told without torch."""
    return setting in ("auto", spec.name) or (setting == "builtin" and spec.name.startswith("builtin-"))
