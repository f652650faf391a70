"""Where a model's files are: a local directory, the Hugging Face cache, or a download from the hub.

Which files decide what is `huggingface.py`; here they are only found. The hub's own client is used, so its settings
(HF_HOME, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE) and the system's proxies hold.
"""

import json
import threading
from pathlib import Path

import httpx
from huggingface_hub import constants, get_hf_file_metadata, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from clip_pipeline.core.errors import EncoderUnavailableError

_CONFIGURATION_FILES = ["*.json", "*.txt", "*.model"]
_SAFETENSORS, _PICKLED = "model.safetensors", "pytorch_model.bin"
_UNREACHABLE = (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, httpx.HTTPError, OSError, ValueError)


def model_folder(name: str, *, local_files_only: bool = False) -> Path:
    """The folder with the model's files; a hub model that is not in the cache is downloaded first.

    Raises:
        EncoderUnavailableError: no such directory, or the hub has no such model or cannot be reached.
    """
    if is_local(name):
        folder = Path(name).expanduser().absolute()
        if not folder.is_dir():
            raise EncoderUnavailableError(f"{folder} is not a folder; name a model's folder or its id on the hub")
        return folder
    cached = cached_folder(name)
    if cached is not None:
        return cached
    if local_files_only:
        raise EncoderUnavailableError(f"{name} is not in the Hugging Face cache; download it once with a network")
    return _download(name)


def is_local(name: str) -> bool:
    """True where the name means a directory: one exists, or it is written as a path and not as `owner/model`."""
    return name.startswith(("/", ".", "~")) or name.count("/") > 1 or Path(name).is_dir()


def cached_folder(name: str) -> Path | None:
    """The folder of a hub model in the Hugging Face cache, or None where its weights are not all there."""
    try:
        folder = Path(snapshot_download(name, local_files_only=True))
        weight_files(folder)
    except (*_UNREACHABLE, EncoderUnavailableError):
        return None
    return folder


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights, in order: safetensors where there are any, else pickled; sharded or not.

    Raises:
        EncoderUnavailableError: none is there, or a shard is missing.
    """
    for single in (_SAFETENSORS, _PICKLED):
        index = folder / f"{single}.index.json"
        if (folder / single).is_file():
            return [folder / single]
        if index.is_file():
            return _shards(index)
    raise EncoderUnavailableError(f"{folder} holds no {_SAFETENSORS} and no {_PICKLED}; download the model again")


def hub_answers(name: str, *, timeout_s: float, endpoint: str | None = None) -> str | None:
    """None where the hub serves the model's configuration within `timeout_s`, else why it does not, in a few words."""
    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    endpoint = endpoint or constants.ENDPOINT
    url = f"{endpoint}/{name}/resolve/main/config.json"
    reasons: list[str | None] = []

    def ask() -> None:
        try:
            get_hf_file_metadata(url, timeout=timeout_s, endpoint=endpoint)
        except Exception as error:  # noqa: BLE001  which HTTP client the hub's library uses differs by its version
            reasons.append(f"{type(error).__name__} from {url}")
        else:
            reasons.append(None)

    # In a thread of its own because looking up a host name has no timeout; a daemon, so that it never delays an exit.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout_s)
    return reasons[0] if reasons else f"no answer from {url} within {timeout_s:g} s"


def _download(name: str) -> Path:
    try:
        patterns = [*_CONFIGURATION_FILES, "*.safetensors"]
        folder = Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=["*/*"]))
        if not any(folder.glob("*.safetensors")):
            patterns = [*_CONFIGURATION_FILES, "pytorch_model*.bin"]
            folder = Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=["*/*"]))
    except _UNREACHABLE as error:
        first_line = str(error).partition("\n")[0]
        raise EncoderUnavailableError(
            f"{name} cannot be had from the Hugging Face hub ({type(error).__name__}: {first_line}); "
            "check its name and the network, copy the model's folder here and name that, or use `builtin`"
        ) from error
    weight_files(folder)
    return folder


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError) as error:
        raise EncoderUnavailableError(f"{index} is not an index of shards ({error}); download it again") from error
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise EncoderUnavailableError(f"{index.parent} lacks {', '.join(missing)}; download the model again")
    return [index.parent / name for name in names]
