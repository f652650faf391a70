"""`make fault-campaign`: starts a fleet, breaks it many times, and says what came of it; status 1 where it failed."""

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from benchmarks.report import console, machine, print_table
from clip_pipeline_tests.campaign.course import Course, Options
from clip_pipeline_tests.campaign.faults import KINDS
from clip_pipeline_tests.campaign.network import why_no_network
from clip_pipeline_tests.campaign.site import ROOT, Site, running_site
from clip_pipeline_tests.campaign.tally import Tally, rounds_of, rows

REPORT = ROOT / "build" / "fault-campaign.json"


def main() -> int:
    """Run a campaign as the command line says; returns the exit status."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="clip-campaign-", dir=arguments.folder))
    say = _teller(folder / "events.log")
    facts = machine()
    try:
        tally = _run(folder / "site", arguments, say=say)
    except pytest.skip.Exception as missing:  # the server of the tests says so of itself
        sys.stderr.write(f"{missing}\n")
        return 2
    for path in arguments.earlier:
        earlier = json.loads(path.read_text())
        tally.rounds[:0] = rounds_of(earlier)
        tally.images += earlier["images"]
        tally.checks += earlier["checks"]
    _report(tally, arguments.report, facts=facts)
    if tally.all_violations:
        sys.stderr.write(f"FAILED: {len(tally.all_violations)} violations; logs and all that was there: {folder}\n")
        return 1
    if not arguments.keep:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _run(folder: Path, arguments: argparse.Namespace, *, say: Callable[[str], None]) -> Tally:
    no_network = why_no_network()
    if no_network:
        say(f"workers have no hosts of their own: {no_network}")
    with running_site(folder, with_network=no_network is None, say=say) as site:
        kinds = _possible(site, arguments.kinds, say=say)
        options = Options(
            arguments.faults, arguments.seed, kinds, arguments.minutes, arguments.size, arguments.check_every
        )
        course = Course(site, options, say=say)
        try:
            course.run()
        except KeyboardInterrupt:
            course.tally.violations.append("it was interrupted")
        except TimeoutError as error:
            course.tally.violations.append(str(error))
        if course.tally.all_violations:
            _keep_evidence(site)
        return course.tally


def _possible(site: Site, kinds: Sequence[str], *, say: Callable[[str], None]) -> tuple[str, ...]:
    """The kinds that this machine can have; of the others it is said why."""
    reasons = {kind: KINDS[kind].why_not(site) for kind in kinds}
    for kind, reason in reasons.items():
        if reason:
            say(f"SKIPPED {kind}: {reason}")
    return tuple(kind for kind, reason in reasons.items() if reason is None)


def _keep_evidence(site: Site) -> None:
    """Copy what ends with the site: the store, which is in memory, and both databases."""
    shutil.copytree(site.store, site.folder / "store-copy", symlinks=True)
    for name, url in (("ledger", site.ledger_url), ("dagster", site.dagster_url)):
        command = ["pg_dump", "--dbname", url, "--file", str(site.folder / f"{name}.sql")]
        try:
            subprocess.run(command, check=True, timeout=120)
        except (OSError, subprocess.SubprocessError) as error:
            sys.stderr.write(f"the {name} is not kept: {error}\n")


def _report(tally: Tally, path: Path, *, facts: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": facts, **tally.document()}, indent=2) + "\n")
    shown = [
        (
            row.kind,
            row.faults,
            row.in_pairs,
            _seconds(row.median_s),
            _seconds(row.longest_s),
            row.retries,
            row.elsewhere,
        )
        for row in rows(tally.rounds)
    ]
    headers = ("kind", "faults", "in pairs", "median s", "longest s", "retries", "on the other worker")
    print_table(f"{tally.faults} faults, {tally.images} images, {tally.checks} checks", headers, shown)
    sys.stderr.write(f"report: {path}\n")


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _teller(log: Path) -> Callable[[str], None]:
    people = console()

    def say(text: str) -> None:
        line = f"{time.strftime('%H:%M:%S')}  {text}"
        people.print(line, soft_wrap=True)
        with log.open("a") as file:
            file.write(line + "\n")

    return say


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make fault-campaign", description=__doc__)
    parser.add_argument("--faults", type=int, default=100, metavar="N", help="how many (100)")
    parser.add_argument("--seed", type=int, default=1, help="of the order, the moments and the pictures (1)")
    parser.add_argument("--kinds", type=_kinds, default=tuple(KINDS), metavar="A,B", help=f"of: {', '.join(KINDS)}")
    parser.add_argument("--minutes", type=float, default=120.0, help="no fault begins after so many (120)")
    parser.add_argument("--size", type=int, default=60, metavar="N", help="images of one job (60)")
    parser.add_argument("--check-every", type=int, default=10, metavar="N", help="faults from check to check (10)")
    parser.add_argument(
        "--report", type=Path, default=REPORT, metavar="FILE", help=f"JSON ({REPORT.relative_to(ROOT)})"
    )
    parser.add_argument(
        "--with", dest="earlier", type=Path, nargs="*", default=[], metavar="FILE", help="reports of earlier pieces"
    )
    parser.add_argument("--folder", type=Path, default=None, metavar="DIR", help="where its temporary folder is made")
    parser.add_argument("--keep", action="store_true", help="keep that folder even when all is well")
    return parser.parse_args()


def _kinds(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    unknown = [name for name in names if name not in KINDS]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(KINDS)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
