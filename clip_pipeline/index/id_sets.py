"""Sets of image ids as ascending arrays, compared by sorting.

`np.unique` and `np.setdiff1d` hash: with NumPy 2.4 they take 1.0 s and 1.8 s of CPU for a million ids. Sorting takes
5 ms and searching 17 ms.
"""

import numpy as np
import numpy.typing as npt

from clip_pipeline.core.release import IdArray


def distinct(ids: IdArray) -> IdArray:
    """Each id once, int64 [m], ascending."""
    ordered = np.sort(ids)
    return ordered[np.append(True, ordered[1:] != ordered[:-1])] if len(ordered) else ordered


def are_in(ascending: IdArray, wanted: IdArray) -> npt.NDArray[np.bool_]:
    """Which of `wanted`, in any order and shape, occur in `ascending`."""
    if not ascending.size:
        return np.zeros(wanted.shape, dtype=bool)
    positions = np.minimum(np.searchsorted(ascending, wanted), len(ascending) - 1)
    return ascending[positions] == wanted


def without(ids: IdArray, ascending: IdArray) -> IdArray:
    """Those of `ids` that are not in `ascending`, in their order."""
    return ids[~are_in(ascending, ids)]
