"""From what the user asked for to an encoder: by name, by choice, or as a store is pinned. The way in for callers.

Importing this module imports torch but not transformers: the built-in encoder needs none of it, and it takes 3 s.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from clip_pipeline.core.encoder import Encoder, EncoderSpec
from clip_pipeline.core.errors import EncoderUnavailableError, FingerprintMismatchError
from clip_pipeline.core.pinning import check_same_encoder, pin_encoder, pinned_encoder
from clip_pipeline.core.store import Store
from clip_pipeline.embedding import builtin, hub
from clip_pipeline.embedding.device import resolve_device
from clip_pipeline.embedding.openvino_tower import Backend, default_dtype

AUTO, BUILTIN = "auto", "builtin"
PRODUCTION_MODEL = "openai/clip-vit-large-patch14"
HUB_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Choice:
    """An encoder's name and, in one sentence for people, why it is this one."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class PinnedEncoder:
    """The encoder a store is pinned to, ready to use, and the sentence that says why it is this one."""

    encoder: Encoder
    reason: str


@dataclass(frozen=True, slots=True)
class _Place:
    """Where and by what an encoder computes, and where it keeps what takes long to make."""

    device: torch.device
    backend: Backend
    cache_dir: Path | None


def choose_encoder(setting: str, *, timeout_s: float = HUB_TIMEOUT_S, endpoint: str | None = None) -> Choice:
    """The encoder that a setting stands for; `auto` looks for the production model, at most `timeout_s` long.

    endpoint: the hub's address; None is the hub client's own (HF_ENDPOINT).
    """
    if setting != AUTO:
        name = _full_name(setting)
        return Choice(name, f"{name} was asked for.")
    if hub.cached_folder(PRODUCTION_MODEL) is not None:
        return Choice(PRODUCTION_MODEL, f"{PRODUCTION_MODEL} is in the Hugging Face cache.")
    refusal = hub.hub_answers(PRODUCTION_MODEL, timeout_s=timeout_s, endpoint=endpoint)
    if refusal is None:
        return Choice(PRODUCTION_MODEL, f"{PRODUCTION_MODEL} will be downloaded: the Hugging Face hub answers.")
    return _fall_back(f"is not in the Hugging Face cache and the hub does not answer ({refusal})")


def load_encoder(
    name: str,
    *,
    device: str = "auto",
    backend: Backend = "auto",
    cache_dir: Path | None = None,
    dtype: str | None = None,
) -> Encoder:
    """The encoder of that name (`builtin`, a hub id, a directory). Its towers load at first use.

    backend: what computes on a CPU. cache_dir: where digests, class embeddings and converted towers are kept between
    processes. dtype: of the image tower; None takes the device's default. The built-in encoder is float32 always.

    Raises:
        EncoderUnavailableError: the model cannot be had, or is of a family that is not supported.
        ConfigurationError: the device does not exist, or the backend was asked for and cannot compute there.
    """
    place = _Place(resolve_device(device), backend, cache_dir)
    return _open(_full_name(name), None, place, dtype=dtype or default_dtype(backend, place.device))


def load_pinned_encoder(
    spec: EncoderSpec, *, device: str = "auto", backend: Backend = "auto", cache_dir: Path | None = None
) -> Encoder:
    """Exactly the encoder that `spec` describes; `encoder.spec` is `spec`.

    Raises:
        EncoderUnavailableError: the model cannot be had.
        FingerprintMismatchError: what now goes by that name has another fingerprint.
        ConfigurationError: as `load_encoder`.
    """
    return _open(spec.name, spec, _Place(resolve_device(device), backend, cache_dir), dtype=spec.dtype)


def load_text_encoder(spec: EncoderSpec, *, backend: Backend = "auto", cache_dir: Path | None = None) -> Encoder:
    """The encoder of `spec` on the CPU, for processes that encode queries; the image tower loads only if used.

    Raises:
        EncoderUnavailableError: the model cannot be had.
        FingerprintMismatchError: what now goes by that name has another fingerprint.
    """
    return load_pinned_encoder(spec, device="cpu", backend=backend, cache_dir=cache_dir)


def ensure_pinned(
    store: Store, setting: str, *, device: str = "auto", backend: Backend = "auto", cache_dir: Path | None = None
) -> PinnedEncoder:
    """The encoder of the store. The first call chooses by `setting` and writes the choice down; it never changes.

    Raises:
        EncoderUnavailableError: the encoder cannot be had.
        FingerprintMismatchError: the store is pinned to another encoder than the one asked for by name.
    """
    place = _Place(resolve_device(device), backend, cache_dir)
    pinned = pinned_encoder(store)
    if pinned is None:
        chosen = _first_choice(setting, place)
        pin_encoder(store, chosen.encoder.spec)
        return chosen
    name = pinned.name if setting == AUTO else _full_name(setting)
    if name == pinned.name:
        encoder = _open(name, pinned, place, dtype=pinned.dtype)
    else:
        encoder = _open_other(name, pinned, place)
    return PinnedEncoder(encoder, f"{pinned.name} is what this store is pinned to.")


def _first_choice(setting: str, place: _Place) -> PinnedEncoder:
    choice, dtype = choose_encoder(setting), default_dtype(place.backend, place.device)
    try:
        return PinnedEncoder(_open(choice.name, None, place, dtype=dtype), choice.reason)
    except EncoderUnavailableError as error:
        if setting != AUTO or choice.name == builtin.NAME:
            raise
        choice = _fall_back(f"could not be loaded ({error})")
    return PinnedEncoder(_open(choice.name, None, place, dtype=dtype), choice.reason)


def _fall_back(why: str) -> Choice:
    return Choice(builtin.NAME, f"The built-in encoder is used, which is not CLIP, because {PRODUCTION_MODEL} {why}.")


def _open_other(name: str, pinned: EncoderSpec, place: _Place) -> Encoder:
    """An encoder of another name than the pinned one, such as a copy in another folder: good if its numbers agree."""
    # Nothing is downloaded merely to find that it differs.
    if name == builtin.NAME or (not hub.is_local(name) and hub.cached_folder(name) is None):
        raise FingerprintMismatchError(
            f"this store is pinned to {pinned.name} but {name} was asked for; vectors of two encoders cannot be "
            "compared. Use the pinned one, or another CLIP_PIPELINE_HOME for the new one"
        )
    return _open(name, pinned, place, dtype=pinned.dtype)


def _open(name: str, expected: EncoderSpec | None, place: _Place, *, dtype: str) -> Encoder:
    if name == builtin.NAME:
        encoder = builtin.BuiltinEncoder(device=place.device, backend=place.backend, cache_dir=place.cache_dir)
        if expected is not None:
            check_same_encoder(expected, encoder.spec)
        return encoder
    # transformers takes 3 s to import: only those pay who use it.
    from clip_pipeline.embedding import huggingface  # noqa: PLC0415

    folder = hub.model_folder(name)
    spec = huggingface.huggingface_spec(name, folder, dtype=dtype, cache_dir=place.cache_dir)
    if expected is not None:
        check_same_encoder(expected, spec)
    return huggingface.HuggingFaceEncoder(
        folder, expected or spec, device=place.device, backend=place.backend, cache_dir=place.cache_dir
    )


def _full_name(setting: str) -> str:
    """What is written down: directories absolute, so that it means the same from any working directory."""
    if setting in (BUILTIN, builtin.NAME):
        return builtin.NAME
    return str(Path(setting).expanduser().absolute()) if hub.is_local(setting) else setting
