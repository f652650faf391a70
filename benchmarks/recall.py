"""How often a caption finds its own photograph: text->image recall@1, 5 and 10 of an index that exists.

For each caption, the photographs that have captions are ranked by the published release of a home, with the text
tower of the encoder that the home is pinned to. Recall@k is the share of captions whose photograph is among the first
k. Index the folder first, for example with `make run ONCE=1 IMAGES=FOLDER`.

The captions are a CSV file with the columns `file` (a name in the folder) and `caption`, one line a caption.
"""

import argparse
import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.report import console, machine, print_table, progress, publish, verdict
from clip_pipeline.cli.configuration import load_settings
from clip_pipeline.core.encoder import EmbeddingMatrix, Encoder, EncoderSpec
from clip_pipeline.core.metrics import IdMatrix
from clip_pipeline.core.paths import path_to_text
from clip_pipeline.core.pinning import pinned_encoder
from clip_pipeline.embedding.registry import load_text_encoder
from clip_pipeline.index.search import ReleaseReader
from clip_pipeline.ledger.database import Ledger, open_ledger
from clip_pipeline.ledger.lookup import image_id_of_path
from clip_pipeline.settings import Settings

KS = (1, 5, 10)
GOAL_AT_10 = 0.18
"""For the built-in encoder; a CLIP does better."""
_TEXTS_AT_ONCE = 128


@dataclass(frozen=True, slots=True)
class Caption:
    """One line of the captions file."""

    file: str
    text: str


def main() -> None:
    """Read, look up, search, print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recall", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="the folder, as it was indexed")
    parser.add_argument("--captions", type=Path, required=True, metavar="FILE", help="CSV with columns file,caption")
    parser.add_argument("--home", type=Path, metavar="DIR", help="the home [CLIP_PIPELINE_HOME, ./.clip_pipeline]")
    arguments = parser.parse_args()
    settings = load_settings(home=arguments.home)
    captions = read_captions(arguments.captions)
    spec, reader, ids = _indexed(settings, arguments.images, captions)
    truth = np.array([ids[caption.file] for caption in captions], np.int64)
    encoder = load_text_encoder(spec, cache_dir=settings.home_path / "cache")
    found = _search(reader, _encoded(encoder, [caption.text for caption in captions]), allowed=np.unique(truth))
    recalls = {k: text_to_image_recall(found, truth, k=k) for k in KS}
    _report(recalls, spec, reader, captions=len(captions), images=len(np.unique(truth)))


def read_captions(path: Path) -> list[Caption]:
    """The captions of a file. Raises SystemExit where it cannot be read as one."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            captions = [Caption(row["file"], row["caption"]) for row in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError, KeyError) as error:
        raise SystemExit(f"{path} is no CSV file with the columns file and caption ({error})") from error
    if not captions:
        raise SystemExit(f"{path} holds no captions")
    return captions


def text_to_image_recall(found: IdMatrix, truth: npt.NDArray[np.int64], *, k: int) -> float:
    """Share of queries whose one right image is among the first k results, in [0, 1].

    found: int64 [q, >=k], best first, -1 for an empty slot. truth: int64 [q].
    """
    return float((found[:, :k] == truth[:, None]).any(axis=1).mean())


def _indexed(
    settings: Settings, folder: Path, captions: Sequence[Caption]
) -> tuple[EncoderSpec, ReleaseReader, dict[str, int]]:
    """The encoder, the release, and the image id of each captioned file. Raises SystemExit unless all are there."""
    how = f"index the folder first: make run ONCE=1 IMAGES={folder}"
    spec = pinned_encoder(settings.store)
    if spec is None or settings.store.current_release_number(spec.key) is None:
        raise SystemExit(f"{settings.home_path} holds no index; {how}")
    reader = ReleaseReader.open(settings.store, spec.key)
    ledger = open_ledger(settings.ledger_location)
    try:
        ids = {name: _image_id(ledger, folder / name) for name in dict.fromkeys(caption.file for caption in captions)}
    finally:
        ledger.close()
    present = {name: image_id for name, image_id in ids.items() if image_id is not None and reader.contains(image_id)}
    if len(present) < len(ids):
        raise SystemExit(f"{len(present)} of {len(ids)} captioned images are in {settings.home_path}; {how}")
    return spec, reader, present


def _image_id(ledger: Ledger, path: Path) -> int | None:
    absolute = os.path.abspath(path.expanduser())
    found = image_id_of_path(ledger, path_to_text(absolute))
    # The folder may have been indexed by another name of it.
    return found if found is not None else image_id_of_path(ledger, path_to_text(os.path.realpath(absolute)))


def _encoded(encoder: Encoder, texts: Sequence[str]) -> EmbeddingMatrix:
    parts: list[EmbeddingMatrix] = []
    with progress() as bar:
        task = bar.add_task("Encoding captions", total=len(texts))
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            chosen = texts[start : start + _TEXTS_AT_ONCE]
            parts.append(encoder.encode_texts(chosen))
            bar.advance(task, len(chosen))
    return np.concatenate(parts)


def _search(reader: ReleaseReader, queries: EmbeddingMatrix, *, allowed: npt.NDArray[np.int64]) -> IdMatrix:
    """int64 [q, 10]: the best images of each query among `allowed`, whatever else the index holds."""
    parts = [
        reader.search(queries[start : start + _TEXTS_AT_ONCE], max(KS), allowed=allowed).ids
        for start in range(0, len(queries), _TEXTS_AT_ONCE)
    ]
    return np.concatenate(parts)


def _report(recalls: dict[int, float], spec: EncoderSpec, reader: ReleaseReader, *, captions: int, images: int) -> None:
    reached = recalls[10] >= GOAL_AT_10
    publish(
        "recall",
        {
            "machine": machine(),
            "encoder": spec.name,
            "fingerprint": spec.fingerprint,
            "release": reader.release.number,
            "images": images,
            "captions": captions,
            "text_to_image_recall": {f"at_{k}": round(value, 4) for k, value in recalls.items()},
            "goal_at_10": GOAL_AT_10,
            "goal_reached": reached,
        },
    )
    rows = [(f"recall@{k}", f"{value:.3f}", f"{min(1.0, k / images):.3f}") for k, value in recalls.items()]
    title = f"{captions:,} captions, {images:,} photographs, {spec.model_name}"
    print_table(title, ("text->image", "found", "by chance"), rows)
    console().print(f"Goal recall@10 >= {GOAL_AT_10}: {verdict(reached)}")


if __name__ == "__main__":
    main()
