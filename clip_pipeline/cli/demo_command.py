"""`clip-pipeline demo`: a folder in, progress, four queries, and a stack that goes on serving."""

from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console

from clip_pipeline.cli.configuration import checked_folder, load_settings, opened_ledger, prepare_home
from clip_pipeline.cli.demo_progress import FolderState, follow, look, shown_on
from clip_pipeline.cli.output import console, count, error_console, shown
from clip_pipeline.cli.search_command import print_hits
from clip_pipeline.cli.service_client import ServiceClient
from clip_pipeline.cli.stack.running import RunningStack, stop_signals_interrupt
from clip_pipeline.cli.status_command import describe_reasons
from clip_pipeline.cli.up_command import print_addresses, print_next_steps, stack_with_news
from clip_pipeline.core.paths import path_to_text
from clip_pipeline.core.pinning import pinned_encoder
from clip_pipeline.ledger.database import Ledger
from clip_pipeline.ledger.folder_progress import embedded_since, embedding_runs, failures_below, first_indexed_file
from clip_pipeline.ledger.states import KNOWN_FILES, FileState
from clip_pipeline.samples import gather_samples
from clip_pipeline.settings import Settings

TEXTS = ("a cat", "a cup of coffee", "a rocket launch")
SAMPLE_EXAMPLE = "motorcycle_left.jpg"
"""Of a stereo pair: a search by it has a right answer besides itself."""

HITS = 3
RELEASE_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the folder. embedded: vectors made in this run, `state`: how its files ended."""

    state: FolderState
    embedded: int
    failures: dict[str, int]


def demo(images: Path | None, *, once: bool, port: int | None, dagster_port: int | None, encoder: str | None) -> None:
    """Index one folder, query it, then serve, unless `once`."""
    folder = checked_folder(images) if images is not None else _samples()
    settings = load_settings(watch=str(folder), port=port, dagster_port=dagster_port, encoder=encoder)
    news = error_console()
    prepare_home(settings)
    with opened_ledger(settings) as ledger:
        if once and _is_empty(ledger, settings, folder):
            console().print(f"{shown(path_to_text(folder))} holds no files: nothing to index.")
            return
        _run(ledger, settings, folder, once=once, news=news)


def _run(ledger: Ledger, settings: Settings, folder: Path, *, once: bool, news: Console) -> None:
    asked = False
    try:
        with stop_signals_interrupt(), stack_with_news(settings, news) as stack:
            _index_and_ask(ledger, stack, folder, news=news)
            asked = True
            if not once:
                print_addresses(news, stack)
                print_next_steps(news, stack)
                stack.serve()
    except KeyboardInterrupt:
        news.print("Stopped.")
        if once and not asked:
            raise typer.Exit(130) from None


def _index_and_ask(ledger: Ledger, stack: RunningStack, folder: Path, *, news: Console) -> None:
    if _is_empty(ledger, stack.settings, folder):
        console().print(f"{shown(path_to_text(folder))} holds no files yet; what you put there is indexed by itself.")
        return
    outcome = _index(ledger, stack, folder, news=news)
    searchable = sum(outcome.state.progress.states[state] for state in KNOWN_FILES)
    if outcome.embedded == 0:
        console().print(f"0 images embedded, {searchable:,} already indexed")
    if outcome.failures:
        console().print(f"Failed: {describe_reasons(outcome.failures)}. `clip-pipeline failed` lists them.")
    if searchable:
        _ask(ledger, stack, folder)
    _print_outcome(outcome)


def _index(ledger: Ledger, stack: RunningStack, folder: Path, *, news: Console) -> Outcome:
    runs_before = embedding_runs(ledger)
    with shown_on(news) as show:
        state = follow(ledger, stack.settings, folder, show=show, wait=stack.supervisor.wait)
    return Outcome(state, embedded_since(ledger, runs_before), failures_below(ledger, path_to_text(folder)))


def _ask(ledger: Ledger, stack: RunningStack, folder: Path) -> None:
    below = path_to_text(folder)
    with ServiceClient(stack.service_url, api_key=stack.settings.api_key) as client:
        client.wait_for_release(_published_release(stack.settings), timeout_s=RELEASE_TIMEOUT_S)
        for text in TEXTS:
            print_hits(client.search_text(text, k=HITS), title=f'\nSearch for "{text}"', below=below)
        example = folder / SAMPLE_EXAMPLE
        chosen = path_to_text(example) if example.is_file() else first_indexed_file(ledger, below)
        if chosen is not None:
            name = shown(chosen.removeprefix(below + "/"))
            print_hits(client.search_indexed(chosen, k=HITS), title=f"\nImages like {name}", below=below)
    console().print()


def _published_release(settings: Settings) -> str:
    spec = pinned_encoder(settings.store)
    number = settings.store.current_release_number(spec.key) if spec else None
    return f"{number or 0:07d}"


def _print_outcome(outcome: Outcome) -> None:
    states = outcome.state.progress.states
    console().print(
        f"{count(states[FileState.INDEXED], 'image')} indexed, {count(states[FileState.DUPLICATE], 'duplicate')}, "
        f"{states[FileState.FAILED]:,} failed; embedded in this run: {outcome.embedded:,}"
    )


def _is_empty(ledger: Ledger, settings: Settings, folder: Path) -> bool:
    state = look(ledger, settings, folder)
    return state.total == 0 and state.unseen == 0


def _samples() -> Path:
    settings = load_settings()
    prepare_home(settings)
    folder = settings.home_path / "samples"
    with error_console().status(f"Gathering sample photographs in {folder}"):
        gather_samples(folder)
    return checked_folder(folder)
