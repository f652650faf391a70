"""Clocks that jump for the processes of one host only, by a small library that is preloaded into them (`clock.c`).

The real clock of the machine is left alone: others use it.
"""

import shutil
import struct
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_SOURCE = Path(__file__).with_name("clock.c")


@dataclass(frozen=True, slots=True)
class Clock:
    """The clock of the processes that have its environment."""

    file: Path

    @property
    def environment(self) -> dict[str, str]:
        """What its processes find in their environment; nothing where no clock can be moved here."""
        library = compiled(self.file.parent)
        if library is None:
            return {}
        self.put(0)
        return {"LD_PRELOAD": str(library), "CAMPAIGN_CLOCK": str(self.file)}

    def put(self, ahead_s: int) -> None:
        """So many seconds ahead of the true time from now on; negative: behind it."""
        # In its place: the processes have mapped this very file.
        with self.file.open("r+b" if self.file.exists() else "wb", buffering=0) as file:
            file.write(struct.pack("l", ahead_s))


@cache
def compiled(folder: Path) -> Path | None:
    """The library, compiled into a folder; None where no compiler is installed.

    Raises:
        subprocess.CalledProcessError: this machine's C library is too old, or another one than glibc.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    library = folder / "clock.so"
    subprocess.run([compiler, "-O2", "-Wall", "-shared", "-fPIC", "-o", library, _SOURCE, "-ldl"], check=True)
    return library


def why_no_clock() -> str | None:
    """Why no clock can be moved here, with the remedy; None where they can."""
    return None if shutil.which("cc") else "no C compiler is installed (Debian: apt-get install gcc libc6-dev)"
