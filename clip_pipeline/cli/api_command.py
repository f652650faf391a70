"""`clip-pipeline api`: the HTTP service, announced in the home so that other commands find it."""

from clip_pipeline.cli.configuration import load_settings, prepare_home
from clip_pipeline.cli.stack.held_file import announced
from clip_pipeline.cli.stack.ports import free_port
from clip_pipeline.cli.stack.state import service_file
from clip_pipeline.serving.server import serve


def api(*, port: int | None) -> None:
    """Serve until told to stop."""
    settings = load_settings(port=port)
    if settings.port == 0:
        settings = settings.model_copy(update={"port": free_port(settings.host)})
    prepare_home(settings)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    with announced(service_file(settings.home_path), {"url": f"http://{host}:{settings.port}"}):
        serve(settings)
