"""Towers that OpenVINO computes on the CPU: made once from the torch modules, kept on disk, read from there by mmap.

torch stays the reference, and what computes where OpenVINO is not installed. Measured on two Zen 4 cores, ViT-B/32 in
CPU ms an image: torch float32 90, OpenVINO float32 47, bfloat16 24.5; normalising the bytes within the graph saves 2 of
them. Cosine to torch's float32: 1.000000 in float32; in bfloat16 0.99997 on average and 0.9998 at worst, measured with
trained weights (DINOv2-S) on 1,000 photographs.

What is kept for bfloat16 is rounded on disk already (`embedding.stored_weights`): the file stays mapped for as long as
the tower lives, beside the copy that it computes with.
"""

import ctypes
import gc
import hashlib
import importlib.util
import json
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from clip_pipeline import __version__
from clip_pipeline.core.encoder import EmbeddingMatrix
from clip_pipeline.core.errors import ConfigurationError, EncoderUnavailableError
from clip_pipeline.core.store import replace_dir, sweep_temporaries
from clip_pipeline.embedding.device import memory_errors
from clip_pipeline.embedding.stored_weights import round_weights

Backend: TypeAlias = Literal["auto", "torch", "openvino"]

logger = logging.getLogger(__name__)

_PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}
_GRAPH, _WEIGHTS = "tower.xml", "tower.bin"
_ABANDONED_AFTER_S = 3600.0


@dataclass(frozen=True, slots=True)
class Traced:
    """A torch module for inference and what it is to be converted with.

    example: its inputs by name; shapes: those that it accepts, -1 where any number will do.
    """

    module: nn.Module
    example: Mapping[str, Tensor]
    shapes: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Conversion:
    """Which tower is converted, and for whom.

    setting: what was asked for, `auto` or `openvino`; fingerprint: of the encoder; inputs: their names; dtype: what it
    computes in; cache_dir: None keeps nothing on disk.
    """

    setting: Backend
    tower: Literal["image", "text"]
    fingerprint: str
    inputs: tuple[str, ...]
    dtype: str
    cache_dir: Path | None

    @property
    def folder(self) -> Path | None:
        """Where it is kept: another place for every version of what decides the graph."""
        if self.cache_dir is None:
            return None
        versions = {name: version(name) for name in ("openvino", "torch", "transformers")}
        parts = {"fingerprint": self.fingerprint, "inputs": self.inputs, "clip_pipeline": __version__, **versions}
        if self.dtype == "bfloat16":
            parts["weights"] = self.dtype
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        return self.cache_dir / "openvino" / f"{self.tower}-{digest[:16]}"


class ConvertedTower:
    """A compiled tower: arrays in, float32 [n, d] out, on as many cores as torch would use. One call at a time."""

    def __init__(self, model: Any, *, dtype: str) -> None:
        """dtype: what it computes in; see `refusal`."""
        options = {
            "INFERENCE_PRECISION_HINT": _PRECISIONS[dtype],
            # One image batch on all cores. A stream a core took as much CPU time, and more memory (measured).
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            # Pinned threads would wait for the cores on which images are being decoded.
            "ENABLE_CPU_PINNING": False,
        }
        self._request = _core().compile_model(model, "CPU", options).create_infer_request()
        self._turn = threading.Lock()

    def __call__(self, **inputs: npt.NDArray[Any]) -> EmbeddingMatrix:
        """The tower's output for inputs by name.

        Raises:
            MemoryError: there is no room for the pass.
        """
        arrays = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        with self._turn, memory_errors():
            outputs = self._request.infer(arrays, share_inputs=True)
            return np.array(outputs[0], np.float32)  # a copy: the next pass writes into the same buffer


def chosen_backend(setting: Backend, device: torch.device, *, dtype: str) -> Literal["torch", "openvino"]:
    """What computes a tower in `dtype` on `device`; `auto` is OpenVINO on a CPU where it can, else torch.

    Raises:
        ConfigurationError: OpenVINO was asked for and cannot.
    """
    if setting == "torch" or (setting == "auto" and device.type != "cpu"):
        return "torch"
    reason = refusal(device, dtype=dtype)
    if reason is None:
        return "openvino"
    if setting == "openvino":
        raise ConfigurationError(f"OpenVINO was asked for, but {reason}; or set CLIP_PIPELINE_BACKEND to auto")
    logger.info("torch computes on the CPU, not OpenVINO", extra={"reason": reason})
    return "torch"


def refusal(device: torch.device, *, dtype: str) -> str | None:
    """Why OpenVINO cannot compute in `dtype` on `device`, in one clause with its remedy, or None where it can."""
    if device.type != "cpu":
        return f"it computes on CPUs and the device is {device}: set CLIP_PIPELINE_DEVICE to cpu"
    if importlib.util.find_spec("openvino") is None:
        return "it is not installed: install clip-pipeline[cpu]"
    if dtype == "bfloat16" and "BF16" not in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return "this CPU has no bfloat16, which the store is pinned to: use one with AVX-512 BF16 or AMX"
    return None


def default_dtype(setting: Backend, device: torch.device) -> str:
    """The dtype of a Hugging Face image tower where none is pinned: bfloat16 on CUDA and where OpenVINO has it."""
    if device.type == "cuda" or (setting != "torch" and refusal(device, dtype="bfloat16") is None):
        return "bfloat16"
    return "float32"


def open_tower(make: Callable[[], Traced], conversion: Conversion) -> ConvertedTower | None:
    """The tower: read from disk, or made by `make`, converted and kept there. None where OpenVINO cannot take it.

    Processes may do so at once: what is there is always whole. A disk that is full costs the next process a
    conversion, nothing else.

    Raises:
        EncoderUnavailableError: it cannot take it, and was asked for by name.
        MemoryError: there is no room for it.
    """
    model = _read(conversion.folder)
    traced = make() if model is None else None
    try:
        with memory_errors():
            if traced is not None:
                model, traced = _made(traced, conversion), None
                _give_memory_back()
            return ConvertedTower(model, dtype=conversion.dtype)
    except MemoryError:
        raise
    except Exception as error:  # OpenVINO's and the tracer's have nothing in common
        if conversion.setting == "openvino":
            raise EncoderUnavailableError(
                f"OpenVINO cannot compute the {conversion.tower} tower ({error}); set CLIP_PIPELINE_BACKEND to auto"
            ) from error
        logger.warning(
            "OpenVINO cannot compute a tower, torch does", extra={"tower": conversion.tower, "error": str(error)}
        )
        return None


def _made(traced: Traced, conversion: Conversion) -> Any:
    model, folder = _converted(traced), conversion.folder
    return model if folder is None else _kept(model, folder, dtype=conversion.dtype)


def _give_memory_back() -> None:
    """Before the tower is compiled, what its conversion took: 335 MB of weights of ViT-B/32 and 67 of a free heap."""
    gc.collect()  # what was traced refers to itself
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def _converted(traced: Traced) -> Any:
    openvino = openvino_module()
    # Not `openvino.convert_model`, which reports every conversion to its makers.
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder  # noqa: PLC0415

    frontend = openvino.frontend.FrontEndManager().load_by_framework("pytorch")
    with torch.inference_mode(), warnings.catch_warnings():
        # torch calls its tracer deprecated, and it warns of sizes that become constants: the picture's are.
        warnings.simplefilter("ignore")
        decoder = TorchScriptPythonDecoder(
            traced.module,
            example_input=dict(traced.example),
            trace_kwargs={"check_trace": False},  # tracing it all again to compare takes three times as long
        )
        model = frontend.convert(frontend.load(decoder))
    model.reshape({name: openvino.PartialShape(list(shape)) for name, shape in traced.shapes.items()})
    return model


def _kept(model: Any, folder: Path, *, dtype: str) -> Any:
    """The model as it was written to `folder`: mapped, so that the weights in memory can go."""
    sweep_temporaries(folder.parent, older_than_s=_ABANDONED_AFTER_S)
    try:
        with replace_dir(folder) as temporary:
            openvino_module().save_model(model, temporary / _GRAPH, compress_to_fp16=False)
            if dtype == "bfloat16":
                round_weights(temporary / _GRAPH, temporary / _WEIGHTS)
    except (OSError, RuntimeError) as error:
        logger.warning("the converted tower is not kept", extra={"folder": str(folder), "error": str(error)})
        return model
    logger.info("tower converted", extra={"folder": str(folder)})
    return _read(folder) or model


def _read(folder: Path | None) -> Any | None:
    """The model in `folder`, or None where there is none or it is damaged."""
    if folder is None or not (folder / _GRAPH).is_file():
        return None
    try:
        return _core().read_model(folder / _GRAPH, folder / _WEIGHTS)
    except RuntimeError as error:
        logger.warning("a converted tower is damaged", extra={"folder": str(folder), "error": str(error)})
        return None


@cache
def _core() -> Any:
    return openvino_module().Core()


@cache
def openvino_module() -> Any:
    """The module, imported without its telemetry: importing it sends a message to its makers otherwise."""
    absent = "openvino_telemetry" not in sys.modules
    if absent:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # OpenVINO then takes its own stand-in
    try:
        import openvino  # noqa: PLC0415

        return openvino
    finally:
        if absent:
            del sys.modules["openvino_telemetry"]
