"""One contender of `benchmarks.embed`, alive in a process of its own: `python -m benchmarks.contender NAME ...`.

It loads its model, embeds some pictures to get warm, says so, and then embeds all of them for each line on standard
input. Answers are JSON lines on standard output. Not for people: `benchmarks.embed` starts it.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, get_args

import numpy as np
import torch
from PIL import Image

from benchmarks.torchvision_beside import use_bench_packages
from clip_pipeline.core.embeddings import StoredVectors, read_embeddings
from clip_pipeline.core.encoder import EmbeddingMatrix
from clip_pipeline.core.inspection import Inspected, inspect_files
from clip_pipeline.core.keys import BatchKey
from clip_pipeline.core.limits import ImageLimits
from clip_pipeline.core.manifest import Manifest, ManifestRow, write_manifest
from clip_pipeline.core.paths import path_to_text
from clip_pipeline.core.store import Store
from clip_pipeline.embedding.openvino_tower import Backend

BATCH = 32
WARM_UP = 2 * BATCH


@dataclass(frozen=True, slots=True)
class Timed:
    """One round. seconds: wall time; extra: what else this contender can tell; vectors: float [n, d]."""

    seconds: float
    vectors: EmbeddingMatrix | StoredVectors
    extra: dict[str, float]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a contender finds its model, and a folder to write to."""

    model: Path
    scratch: Path
    decode_workers: int
    backend: Backend


class Contender(Protocol):
    """Pictures to embeddings, the way one program does it."""

    def embed(self, paths: Sequence[Path]) -> Timed:
        """All of `paths`, timed from the first file opened to the embeddings written."""
        ...


class Ours:
    """`embed_batch`, from a manifest to sealed embeddings: read, checked by digest, decoded, embedded, flushed."""

    def __init__(self, place: Place) -> None:
        from clip_pipeline.embedding.registry import load_encoder  # noqa: PLC0415
        from clip_pipeline.embedding.ring import PixelRing  # noqa: PLC0415

        self._limits = ImageLimits()
        self.store = Store(place.scratch)
        self.encoder = load_encoder(str(place.model), backend=place.backend, cache_dir=place.scratch)
        self.ring = PixelRing(
            self.encoder.spec.preprocessing, limits=self._limits, forward_batch=BATCH,
            decode_workers=place.decode_workers,
        )  # fmt: skip
        self.ring.__enter__()

    def embed(self, paths: Sequence[Path]) -> Timed:
        """As `Contender.embed`; `manifest_s` is what listing and hashing took before, not part of `seconds`."""
        from clip_pipeline.embedding.loop import embed_batch  # noqa: PLC0415

        began = time.perf_counter()
        manifest = manifest_of(self.store, paths, limits=self._limits)
        sealed = time.perf_counter()
        result = embed_batch(
            self.store, self.encoder, manifest, limits=self._limits, run_id="benchmark", ring=self.ring
        )
        ended = time.perf_counter()
        stored = read_embeddings(self.store, self.encoder.spec.key, manifest.batch)
        extra = {
            "manifest_s": sealed - began, "decode_wait_s": result.decode_wait_s, "forward_s": result.forward_s,
            "quarantined": float(len(result.quarantined)),
        }  # fmt: skip
        return Timed(ended - sealed, stored.vectors, extra)


class DecodeOnly:
    """What `Ours` does before the forward passes, and nothing else: files read, checked, decoded into the ring."""

    def __init__(self, place: Place) -> None:
        self._ours = Ours(place)

    def embed(self, paths: Sequence[Path]) -> Timed:
        """As `Contender.embed`, without vectors."""
        ring, manifest = self._ours.ring, manifest_of(self._ours.store, paths, limits=ImageLimits())
        began = time.perf_counter()
        slots = [(group, slot) for group in range(ring.groups) for slot in range(ring.forward_batch)]
        waiting = list(manifest.rows)
        for (group, slot), row in zip(slots, waiting, strict=False):
            ring.submit(group, slot, row)
        del waiting[: len(slots)]
        done = 0
        while done < len(paths):
            for filled in ring.collect():
                done += 1
                if waiting:
                    ring.submit(filled.group, filled.slot, waiting.pop())
        return Timed(time.perf_counter() - began, np.empty((done, 0), np.float32), {})


class ForwardOnly:
    """The forward passes of `Ours` alone, on pixels that are there already."""

    def __init__(self, place: Place) -> None:
        self._encoder = Ours(place).encoder
        how = self._encoder.spec.preprocessing
        self._pixels = np.random.default_rng(0).integers(0, 256, (BATCH, 3, how.height, how.width), np.uint8)

    def embed(self, paths: Sequence[Path]) -> Timed:
        """As `Contender.embed`, of as many pictures as there are paths."""
        began = time.perf_counter()
        parts = [
            self._encoder.encode_images(self._pixels[: len(paths[start : start + BATCH])])
            for start in range(0, len(paths), BATCH)
        ]
        return Timed(time.perf_counter() - began, np.concatenate(parts), {})


class TransformersLoop:
    """The loop that a user of transformers would write: open, process, embed, 32 at a time."""

    def __init__(self, place: Place) -> None:
        use_bench_packages()  # with torchvision transformers takes its fast image processor
        import transformers  # noqa: PLC0415

        self._processor: Any = transformers.AutoProcessor.from_pretrained(place.model, local_files_only=True)
        self._model: Any = transformers.AutoModel.from_pretrained(place.model, local_files_only=True).eval()
        self._out = place.scratch / "vectors.npy"

    def embed(self, paths: Sequence[Path]) -> Timed:
        """As `Contender.embed`."""
        began = time.perf_counter()
        parts: list[EmbeddingMatrix] = []
        for start in range(0, len(paths), BATCH):
            images = [Image.open(path) for path in paths[start : start + BATCH]]
            inputs = self._processor(images=images, return_tensors="pt")
            with torch.inference_mode():
                output = self._model.get_image_features(**inputs)
            parts.append(_unit(output if isinstance(output, torch.Tensor) else output.pooler_output))
        return _written(parts, self._out, began)


class OpenClipLoader:
    """open_clip with a DataLoader, its own model and transform."""

    def __init__(self, place: Place, *, workers: int) -> None:
        use_bench_packages()
        import open_clip  # noqa: PLC0415  # pyright: ignore[reportMissingImports]

        model, _, transform = open_clip.create_model_and_transforms("ViT-B-32", pretrained=None)
        self._model: Any = model.eval()
        self._transform = transform
        self._workers = workers
        self._out = place.scratch / "vectors.npy"

    def embed(self, paths: Sequence[Path]) -> Timed:
        """As `Contender.embed`."""
        began = time.perf_counter()
        pictures: Any = _Pictures(paths, self._transform)
        loader = torch.utils.data.DataLoader(pictures, batch_size=BATCH, num_workers=self._workers)
        with torch.inference_mode():
            parts = [_unit(self._model.encode_image(batch)) for batch in loader]
        return _written(parts, self._out, began)


@dataclass(frozen=True, slots=True)
class _Pictures:
    """A map-style dataset."""

    paths: Sequence[Path]
    transform: Callable[[Image.Image], torch.Tensor]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: int) -> torch.Tensor:
        with Image.open(self.paths[position]) as image:
            return self.transform(image)


MAKERS: dict[str, Callable[[Place], Contender]] = {
    "clip_pipeline": Ours,
    "decode-only": DecodeOnly,
    "forward-only": ForwardOnly,
    "transformers": TransformersLoop,
    "open_clip-0": lambda place: OpenClipLoader(place, workers=0),
    "open_clip-2": lambda place: OpenClipLoader(place, workers=2),
}


def manifest_of(store: Store, paths: Sequence[Path], *, limits: ImageLimits) -> Manifest:
    """The sealed manifest of these files, as a run of `image_manifest` makes it; image ids from 1, in their order."""
    texts = [path_to_text(path) for path in paths]
    rows: list[ManifestRow] = []
    for position, found in inspect_files(texts, limits=limits):
        if not isinstance(found, Inspected):
            raise SystemExit(f"{texts[position]}: {found}")
        rows.append(
            ManifestRow(
                position + 1, found.sha256, found.path, found.size_bytes, found.mtime_ns, found.format, found.width,
                found.height, found.orientation,
            )
        )  # fmt: skip
    return write_manifest(store, BatchKey(1), rows)


def main(makers: Mapping[str, Callable[[Place], Contender]] = MAKERS) -> None:
    """Load, get warm, then one round for each line that comes in."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=makers)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--decode-workers", type=int, default=0)
    parser.add_argument("--backend", choices=get_args(Backend), default="auto")
    arguments = parser.parse_args()
    arguments.scratch.mkdir(parents=True, exist_ok=True)
    paths = sorted(arguments.photographs.glob("*.jpg"))[: arguments.count]
    place = Place(arguments.model, arguments.scratch, arguments.decode_workers, arguments.backend)
    contender = makers[arguments.name](place)
    contender.embed(paths[:WARM_UP])
    _answer({"torch_threads": torch.get_num_threads()})
    for _ in sys.stdin:
        timed = contender.embed(paths)
        np.save(arguments.scratch / "answer.npy", timed.vectors)
        _answer({"seconds": timed.seconds, "images": len(timed.vectors), **timed.extra})


def _answer(document: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def _unit(vectors: torch.Tensor) -> EmbeddingMatrix:
    return torch.nn.functional.normalize(vectors.float(), dim=1).numpy()


def _written(parts: Sequence[EmbeddingMatrix], path: Path, began: float) -> Timed:
    vectors = np.concatenate(parts)
    np.save(path, vectors.astype(np.float16))
    return Timed(time.perf_counter() - began, vectors, {})


if __name__ == "__main__":
    main()
