"""torchvision from PyPI beside a CPU build of torch: its Python part works, its compiled operators do not load.

Only for the programs of the comparison, which need nothing but its image transforms.
"""

import importlib
import sys
from pathlib import Path

import torch

FOLDER = Path(__file__).resolve().parent.parent / ".venv" / "bench"
_DECLARED = ("nms", "qnms")
_kept: list[torch.library.Library] = []


def use_bench_packages() -> None:
    """Make what benchmarks/requirements.txt lists importable in this process.

    Raises:
        SystemExit: it is not installed.
    """
    if not FOLDER.is_dir():
        raise SystemExit(f"the programs to compare with are not in {FOLDER}; run: make .venv/.installed-bench")
    # Last, so that what is installed for the product wins.
    sys.path.append(str(FOLDER))
    importlib.invalidate_caches()
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        _forget("torchvision")
        _declare_operators()
        importlib.import_module("torchvision")


def _forget(package: str) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]


def _declare_operators() -> None:
    """Name the two operators that torchvision describes to torch on import without looking whether they loaded."""
    library = torch.library.Library("torchvision", "DEF")
    for name in _DECLARED:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept.append(library)  # the declarations go when it does
