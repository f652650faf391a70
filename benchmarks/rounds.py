"""Contenders as child processes, asked for rounds in turn, and what their rounds come to."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

from benchmarks.footprint import Footprint, tree_cpu_s, wait_until_quiet, watched
from benchmarks.report import ROOT, print_table, verdict

CONTENDER = "benchmarks.contender"


@dataclass(frozen=True, slots=True)
class Round:
    """One pass over all pictures. cpu_s: of all processes, or what the contender says; extra: what else it tells."""

    images: int
    seconds: float
    cpu_s: float
    extra: Mapping[str, float]

    @property
    def images_per_s(self) -> float:
        """Throughput of this round."""
        return self.images / self.seconds


@dataclass(slots=True)
class Child:
    """A contender in a process of its own, kept alive between rounds so that no round pays for loading."""

    name: str
    scratch: Path
    process: "subprocess.Popen[str]"
    footprint: Footprint = field(default_factory=Footprint)
    rounds: list[Round] = field(default_factory=list[Round])

    @classmethod
    def start(cls, name: str, arguments: Sequence[str], *, scratch: Path, module: str = CONTENDER) -> "Child":
        """Start it and wait until it is loaded and warm. Raises SystemExit, with the end of its log, if it is not."""
        scratch.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", module, name, "--scratch", str(scratch), *arguments]
        with (scratch / "log.txt").open("w") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        child = cls(name, scratch, process)
        with watched(process.pid, child.footprint):
            child._answer()
        return child

    def run(self) -> Round:
        """One round, measured."""
        wait_until_quiet(self.process.pid)
        cpu_before = tree_cpu_s(self.process.pid)
        with watched(self.process.pid, self.footprint):
            assert self.process.stdin is not None
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
            answer = self._answer()
        cpu_s = answer.pop("cpu_s", tree_cpu_s(self.process.pid) - cpu_before)
        done = Round(int(answer.pop("images")), float(answer.pop("seconds")), cpu_s, answer)
        self.rounds.append(done)
        return done

    def stop(self) -> None:
        """End the process and wait for it."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            log = (self.scratch / "log.txt").read_text(errors="replace").splitlines()[-15:]
            raise SystemExit(f"{self.name} ended with status {self.process.wait()}:\n" + "\n".join(log))
        return json.loads(line)


def summary(rounds: Sequence[Round], *, peak_bytes: int) -> dict[str, object]:
    """The median round of one contender, with all rounds beside it."""
    extras = {key for done in rounds for key in done.extra}
    return {
        "images_per_s": round(median(done.images_per_s for done in rounds), 2),
        "images_per_s_of_rounds": [round(done.images_per_s, 2) for done in rounds],
        "cpu_ms_per_image": round(median(1000 * done.cpu_s / done.images for done in rounds), 1),
        "peak_memory_mib": round(peak_bytes / 2**20),
        **{key: round(median(done.extra[key] for done in rounds), 3) for key in sorted(extras)},
    }


def ratio_of_rounds(ours: Sequence[Round], others: Mapping[str, Sequence[Round]]) -> list[float]:
    """Our throughput over the best of the others, round by round: what disturbs a round disturbs all of it."""
    best = [max(rounds[i].images_per_s for rounds in others.values()) for i in range(len(ours))]
    return [done.images_per_s / other for done, other in zip(ours, best, strict=True)]


@dataclass(frozen=True, slots=True)
class Goal:
    """A measured figure and what was set out to be reached."""

    name: str
    measured: float
    goal: float
    must_be: Literal["at least", "below"]

    @property
    def reached(self) -> bool:
        """Whether it is."""
        return self.measured < self.goal if self.must_be == "below" else self.measured >= self.goal


def goals_table(goals: Sequence[Goal]) -> None:
    """Measured figures beside their goals, for people."""
    rows = [(goal.name, goal.measured, f"{goal.must_be} {goal.goal:g}", verdict(goal.reached)) for goal in goals]
    print_table("Goals", ("", "measured", "goal", ""), rows)
