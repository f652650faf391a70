"""Watched folders: what appears, changes or vanishes below them is registered without any command."""

import json
from pathlib import Path

import dagster as dg

from clip_pipeline.core.errors import ClipPipelineError
from clip_pipeline.core.paths import display_path, path_to_text
from clip_pipeline.defs.resources import PipelineResource
from clip_pipeline.defs.sensors.pace import EVERY_LOOK_S
from clip_pipeline.ledger.scanning import Scan, ScanRules, scan_folder
from clip_pipeline.settings import Settings


@dg.sensor(
    minimum_interval_seconds=EVERY_LOOK_S,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Registers new, changed and vanished files of the watched folders. Starts no run itself.",
)
def watched_folders(context: dg.SensorEvaluationContext, pipeline: PipelineResource) -> dg.SensorResult:
    """Scan each folder from where the last tick left off, for a bounded time."""
    settings = pipeline.settings()
    positions: dict[str, str] = json.loads(context.cursor or "{}")
    scans: dict[str, Scan | str] = {}
    for folder in settings.watch_folders:
        name = path_to_text(folder)
        scans[name] = _scan(pipeline, settings, folder, after=positions.get(name, ""))
    following = {n: s.next_after for n, s in scans.items() if isinstance(s, Scan) and s.next_after is not None}
    return dg.SensorResult(skip_reason=describe_scans(scans), cursor=json.dumps(following))


def describe_scans(scans: dict[str, Scan | str]) -> str:
    """One line a folder, with counts, for the tick's entry in the Dagster UI."""
    if not scans:
        return "no folder is watched; set CLIP_PIPELINE_WATCH or start with `clip-pipeline up --watch FOLDER`"
    return "; ".join(f"{display_path(name)}: {_describe(scan)}" for name, scan in scans.items())


def _scan(pipeline: PipelineResource, settings: Settings, folder: Path, *, after: str) -> Scan | str:
    if not folder.is_dir():
        return "the folder does not exist or cannot be reached; nothing was changed"
    rules = ScanRules(ignore=settings.ignore_patterns, roots=settings.root_folders)
    try:
        return scan_folder(pipeline.ledger(), folder, rules=rules, after=after)
    except ClipPipelineError as error:
        return str(error)


def _describe(scan: Scan | str) -> str:
    if isinstance(scan, str):
        return scan
    new = scan.registration.new_images_count if scan.registration else 0
    parts = [f"{new} new or changed", f"{scan.gone} gone", f"{scan.unchanged} unchanged"]
    if scan.unsettled:
        parts.append(f"{scan.unsettled} still being written")
    if scan.unreadable:
        parts.append(f"{len(scan.unreadable)} folders cannot be read, first {display_path(scan.unreadable[0])}")
    if scan.next_after is not None:
        parts.append("to be continued")
    return ", ".join(parts)
