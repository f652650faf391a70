"""Write constraints.txt: every package that `.[all,dev]` needs, at the newest version that pyproject.toml allows.

pip resolves in an empty environment (`--dry-run --ignore-installed`), so nothing that happens to be installed gets in.
`tools/write_lock.py --keep FILE` holds the versions that FILE pins, for a lock that only loses or gains packages.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "constraints.txt"
# What a CUDA build of torch brings along and a CPU build does not: pinned, it would bind the lock to one of them.
BUILD_OF_TORCH = ("cuda-", "nvidia-", "triton")
HEADER = """\
# The lock: every package that `.[all,dev]` installs, at one version each. Made by `make lock`; do not edit.
#
#     pip install --constraint constraints.txt --editable '.[all,dev]'
#
# Without hashes: pip takes them only when every package has one, and torch must stay free to be the CPU or the CUDA
# build of its version (the latter brings its own nvidia-* and triton packages, so those are not pinned either). What
# must not differ by a byte, the weights of the encoders, is checked by digest when loaded.
# Resolved on Linux with Python {python}.
"""


def main() -> None:
    """Resolve, filter, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, help="a constraints file whose versions are kept")
    keep: Path | None = parser.parse_args().keep
    pins = pins_of(resolve(keep))
    python = ".".join(map(str, sys.version_info[:2]))
    LOCK.write_text(HEADER.format(python=python) + "".join(f"{name}=={version}\n" for name, version in pins.items()))
    print(f"{LOCK.name}: {len(pins)} packages")


def resolve(keep: Path | None) -> list[dict[str, Any]]:
    """What pip would install, as the `metadata` of its installation report."""
    held = ["--constraint", str(keep.resolve())] if keep else []
    command = [
        *(sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"),
        *("--disable-pip-version-check", *held, "--report", "-", "--editable", ".[all,dev]"),
    ]
    report = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    return [item["metadata"] for item in json.loads(report)["install"]]


def pins_of(packages: list[dict[str, Any]]) -> dict[str, str]:
    """Name to public version (`2.13.0` of `2.13.0+cpu`), by name, without this project and the builds of torch."""
    names = {canonicalize_name(package["name"]): Version(package["version"]).public for package in packages}
    return {
        name: version
        for name, version in sorted(names.items())
        if name != "clip-pipeline" and not name.startswith(BUILD_OF_TORCH)
    }


if __name__ == "__main__":
    main()
