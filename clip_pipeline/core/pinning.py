"""The encoder that a store is built with: chosen once, written down, never changed silently."""

from clip_pipeline.core.encoder import EncoderSpec
from clip_pipeline.core.errors import FingerprintMismatchError, IntegrityError
from clip_pipeline.core.store import Store, replace_file


def pinned_encoder(store: Store) -> EncoderSpec | None:
    """The specification this store is pinned to, or None before the first.

    Raises:
        IntegrityError: the file is there but is no specification.
    """
    path = store.pinned_encoder_path
    try:
        return EncoderSpec.from_json(path.read_text())
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{path} is not an encoder specification ({error}); restore it from a backup") from error


def pin_encoder(store: Store, spec: EncoderSpec) -> None:
    """Write down the encoder of this store. Pinning the same one again does nothing.

    Raises:
        FingerprintMismatchError: the store is pinned to another one.
    """
    pinned = pinned_encoder(store)
    if pinned is not None:
        check_same_encoder(pinned, spec)
        return
    with replace_file(store.pinned_encoder_path) as temporary:
        temporary.write_text(spec.to_json())


def check_same_encoder(pinned: EncoderSpec, found: EncoderSpec) -> None:
    """Raises FingerprintMismatchError unless vectors of both may be compared."""
    if pinned.fingerprint != found.fingerprint:
        raise FingerprintMismatchError(
            f"this store is pinned to {pinned.name} ({pinned.fingerprint[:12]}) but {found.name} "
            f"({found.fingerprint[:12]}) was asked for; vectors of two encoders cannot be compared. Use the pinned "
            "one, or another CLIP_PIPELINE_HOME for the new one"
        )
