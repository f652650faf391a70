"""`clip-pipeline init`: the home, its ledger and the encoder that it is pinned to."""

from clip_pipeline.cli.configuration import load_settings, opened_ledger, prepare_home
from clip_pipeline.cli.output import console, error_console, print_json
from clip_pipeline.core.encoder import EncoderSpec
from clip_pipeline.core.pinning import pinned_encoder
from clip_pipeline.embedding.registry import ensure_pinned
from clip_pipeline.ledger.deployment import adopt_store
from clip_pipeline.settings import Settings


def init(*, encoder: str | None, as_json: bool) -> None:
    """Make what is missing; say which encoder it is, and why."""
    settings = load_settings(encoder=encoder)
    prepare_home(settings)
    with opened_ledger(settings) as ledger:
        adopt_store(ledger, settings.store)
    is_first = pinned_encoder(settings.store) is None
    with error_console().status("Deciding on the encoder and loading it") if not as_json else error_console():
        pinned = ensure_pinned(
            settings.store, settings.encoder, device=settings.device, backend=settings.backend,
            cache_dir=settings.home_path / "cache",
        )  # fmt: skip
    spec = pinned.encoder.spec
    if as_json:
        print_json(_document(settings, spec, pinned.reason))
        return
    console().print(f"Home      {settings.home_path}")
    console().print(f"Encoder   {spec.name}, {spec.dim} dimensions, {'pinned now' if is_first else 'pinned before'}")
    console().print(f"Why       {pinned.reason}")
    console().print("Next      clip-pipeline up --watch FOLDER")


def _document(settings: Settings, spec: EncoderSpec, reason: str) -> dict[str, object]:
    return {
        "home": str(settings.home_path),
        "encoder": spec.name,
        "model_name": spec.model_name,
        "embedding_dim": spec.dim,
        "fingerprint": spec.fingerprint,
        "reason": reason,
    }
