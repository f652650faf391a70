"""How scores are spread in a release: a sample of its images against the best other image, and against chance."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clip_pipeline.core.release import IdArray
from clip_pipeline.index.search import ReleaseReader

SAMPLE_IMAGES = 1_000
"""About one second of one core for each millisecond that a search takes."""

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class ScoreSample:
    """nearest: float32 [n], the score of each sampled image's best other image; chance: float32 [n], of random pairs
    of the sample. Both empty where the release holds fewer than two images."""

    release: int
    nearest: Scores
    chance: Scores


def sample_scores(reader: ReleaseReader, *, most: int = SAMPLE_IMAGES) -> ScoreSample:
    """The scores of up to `most` images of the release, the same ones each time.

    Images are searched one by one: a single search keeps to one core, so that those of others go on beside it.
    """
    ids = reader.live_ids()
    if len(ids) < 2:
        return ScoreSample(reader.release.number, np.empty(0, np.float32), np.empty(0, np.float32))
    chosen = _chosen(ids, most=most, seed=reader.release.number)
    found = ((int(i), reader.vector(int(i))) for i in chosen)
    vectors = {i: vector for i, vector in found if vector is not None}
    nearest = [_best_other(reader, vector, own=i) for i, vector in vectors.items()]
    points = np.stack(list(vectors.values())).astype(np.float32)
    # Shuffled already, so each image's neighbour in the list is any other image.
    chance = np.einsum("nd,nd->n", points, np.roll(points, 1, axis=0))
    return ScoreSample(reader.release.number, np.array(nearest, np.float32), chance.astype(np.float32))


def _chosen(ids: IdArray, *, most: int, seed: int) -> IdArray:
    return np.random.default_rng(seed).permutation(ids)[:most]


def _best_other(reader: ReleaseReader, vector: npt.NDArray[np.float32], *, own: int) -> float:
    found = reader.search(vector[None, :], 2)
    others = found.scores[0][found.ids[0] != own]
    return float(others[0])
