"""`clip-pipeline api`: the HTTP service, announced in the home so that other commands find it."""

from clip_pipeline.cli.configuration import load_settings, opened_ledger, prepare_home
from clip_pipeline.cli.output import error_console
from clip_pipeline.cli.stack.held_file import announced
from clip_pipeline.cli.stack.ports import free_port
from clip_pipeline.cli.stack.state import service_file
from clip_pipeline.ledger.deployment import record_controller
from clip_pipeline.serving.server import check_reach, serve


def api(*, port: int | None) -> None:
    """Serve until told to stop."""
    settings = load_settings(port=port)
    if settings.port == 0:
        settings = settings.model_copy(update={"port": free_port(settings.host)})
    prepare_home(settings)
    check_reach(settings)  # first: a refused start leaves nothing behind
    with opened_ledger(settings) as ledger:
        fault = record_controller(ledger, settings.store)
    if fault is not None:  # it serves all the same: whoever restored a store wants to look at it
        error_console().print(f"Workers will take no work: {fault}")
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    with announced(service_file(settings.home_path), {"url": f"http://{host}:{settings.port}"}):
        serve(settings)
