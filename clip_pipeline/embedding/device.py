"""Where and how precisely a forward pass runs: device, dtype, threads, and memory errors told apart from others."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from clip_pipeline.core.encoder import EmbeddingMatrix, PixelBatch, Preprocessing
from clip_pipeline.core.errors import ConfigurationError

# torch raises a plain RuntimeError when the CPU allocator fails; only the text tells.
_CPU_OUT_OF_MEMORY = ("DefaultCPUAllocator", "can't allocate memory", "not enough memory", "could not create a memory")

# Several parts a core even out what the cores lose to other processes: 18.4 images/s, with one part a core 16.5.
_IMAGES_OF_A_PART = 8


Part = TypeVar("Part")
Result = TypeVar("Result")


def resolve_device(setting: str) -> torch.device:
    """The device that `auto` (CUDA where there is one, else CPU), `cpu`, `cuda` or `cuda:N` stands for.

    Raises:
        ConfigurationError: the setting names no device, or one that this machine lacks.
    """
    if setting == "auto":
        setting = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(setting)
    except RuntimeError as error:
        raise ConfigurationError(f"expected device auto, cpu, cuda or cuda:N, got {setting!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigurationError(f"expected device auto, cpu, cuda or cuda:N, got {setting!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigurationError(
            f"device {setting!r} was asked for but torch sees {torch.cuda.device_count()} CUDA devices; set "
            "CLIP_PIPELINE_DEVICE to auto, or install a CUDA build of torch"
        )
    return device


def configure_torch_threads(threads: int) -> None:
    """Threads of one forward pass on the CPU, for the whole process; for loops that decode on the other cores."""
    torch.set_num_threads(threads)


def on_all_cores(forward: Callable[[PixelBatch], EmbeddingMatrix], pixels: PixelBatch) -> EmbeddingMatrix:
    """`forward` of uint8 [n, 3, h, w] on the CPU: a part of the images on each core, instead of a part of each layer.

    torch's own threads wait for each other within every layer, and longer where decoders and others need the cores.
    ViT-B/32 with decoding on 2 cores at a load of 4, in turn, median of five: 18.4 images/s and 107 CPU ms an image
    instead of 13.7 and 125; nearly equal on an idle machine. Fewer images than cores get torch's threads, all but one.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        return forward(pixels)
    if len(pixels) < threads:
        # An image of EfficientNet-Lite0 on 2 cores at a load of 7: 60, 18, 22 ms; with both threads 1751, 752, 198.
        return _workers(1, threads - 1).submit(forward, pixels).result()
    size = min(_IMAGES_OF_A_PART, -(-len(pixels) // threads))
    parts = [pixels[start : start + size] for start in range(0, len(pixels), size)]
    return np.concatenate(one_core_each(forward, parts))


def one_core_each(work: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """`work` of each part on the CPU, in order: as many parts at a time as torch has threads, each on one core.

    Two threads of torch's wait for each other by spinning: where other processes want the cores too, they take four
    times as long as one (measured: 31 s against 8.6 s, at a load of 5 on two cores).
    """
    threads = torch.get_num_threads()
    return [work(part) for part in parts] if threads == 1 else list(_workers(threads, 1).map(work, parts))


@cache
def _workers(count: int, threads_each: int) -> ThreadPoolExecutor:
    """A pool in whose threads torch computes with so many threads; elsewhere in the process it stays as it was."""
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, "forward", initializer=_use_threads, initargs=(threads_each,))
    together = threading.Barrier(count)
    list(pool.map(lambda _: together.wait(), range(count)))  # so that every thread has begun
    # torch keeps the number for each thread, but what was set last is where threads that begin later start.
    torch.set_num_threads(before)
    return pool


def _use_threads(threads: int) -> None:
    # Asked first, because torch's first look in a thread brings the number of the process and undoes what was set.
    torch.get_num_threads()
    torch.set_num_threads(threads)


def normalised(pixels: PixelBatch, preprocessing: Preprocessing, *, device: torch.device) -> Tensor:
    """`(pixels / 255 - mean) / std` on the device: uint8 [n, 3, h, w] -> float32, channels last.

    The bytes travel, not the floats: a quarter of the traffic to a GPU.
    """
    # torch warns about arrays that it could not write to, such as a read-only view of shared memory.
    source = torch.from_numpy(np.require(pixels, np.uint8, "W"))
    images = source.to(device).to(torch.float32, memory_format=torch.channels_last)
    std = torch.tensor(preprocessing.std, device=device).view(3, 1, 1)
    mean = torch.tensor(preprocessing.mean, device=device).view(3, 1, 1)
    return images.mul_(1 / (255 * std)).sub_(mean / std)


@contextmanager
def memory_errors() -> Iterator[None]:
    """Every way torch has of saying that memory ran out, on CUDA or CPU, leaves the block as MemoryError."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()  # what the failed pass held goes back, so that a smaller one finds room
        raise MemoryError(str(error)) from error
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _CPU_OUT_OF_MEMORY):
            raise
        raise MemoryError(str(error)) from error
