"""`clip-pipeline status`, `stats` and `failed`: what the ledger and Dagster know, for people or as API documents."""

from typing import Any

from clip_pipeline.cli.configuration import existing_ledger, load_settings
from clip_pipeline.cli.output import console, count, print_json, print_table, shown
from clip_pipeline.cli.stack.state import dagster_url, running_stack
from clip_pipeline.core.errors import StackError
from clip_pipeline.core.reasons import ReasonCode
from clip_pipeline.ledger.lookup import failed_files, failures_by_code
from clip_pipeline.serving.documents import overall_status_document, stats_document, status_document
from clip_pipeline.serving.orchestrator import Orchestrator
from clip_pipeline.settings import Settings

Document = dict[str, Any]


def status(job: str | None, *, as_json: bool) -> None:
    """Print where one job stands, or what jobs there are."""
    settings = load_settings()
    orchestrator = Orchestrator(dagster_url(settings))
    try:
        with existing_ledger(settings) as ledger:
            if job is None:
                document = overall_status_document(ledger, settings.store, orchestrator)
            else:
                document = status_document(ledger, orchestrator, job)
        if as_json:
            print_json(document)
        elif job is None:
            _print_jobs(document, _describe_stack(settings, orchestrator))
        else:
            print_job(document)
    finally:
        orchestrator.close()


def stats(*, as_json: bool) -> None:
    """Print what the index holds."""
    settings = load_settings()
    with existing_ledger(settings) as ledger:
        document = stats_document(ledger, settings.store)
    if as_json:
        print_json(document)
        return
    print_table("", ["", ""], [(name.replace("_", " "), _cell(value)) for name, value in document.items()])


def failed(reason: ReasonCode | None, *, as_json: bool) -> None:
    """Print the failed files and how many there are for each reason."""
    with existing_ledger(load_settings()) as ledger:
        files = failed_files(ledger, code=reason)
        by_reason = failures_by_code(ledger)
    if as_json:
        rows = [{"path": file.path, "reason": file.reason} for file in files]
        print_json({"num_failed": len(files), "by_reason": by_reason, "failed": rows})
        return
    if not files:
        console().print("No file failed." if reason is None else f"No file failed with the reason {reason}.")
        return
    print_table("", ["reason", "path"], [(shown(file.reason), shown(file.path)) for file in files])
    console().print(f"\n{count(len(files), 'file')}: {describe_reasons(by_reason, only=reason)}")


def describe_reasons(by_reason: dict[str, int], *, only: str | None = None) -> str:
    """`3 truncated, 1 empty`."""
    return ", ".join(f"{number:,} {code}" for code, number in by_reason.items() if only in (None, code))


def print_job(document: Document) -> None:
    """A status document of one job, for people."""
    progress = document["progress"]
    rows: list[tuple[str, object]] = [
        ("job", document["job_id"]),
        ("status", document["status"]),
        ("processed", f"{progress['processed_images']:,} of {count(progress['total_images'], 'image')}"),
        ("percent", progress["percent_complete"]),
        ("failed", f"{progress['failed_images']:,}"),
    ]
    rows += [(name.removesuffix("_at"), document[name]) for name in ("created_at", "started_at", "completed_at")]
    rows += [(name.replace("_", " "), document[name]) for name in ("eta_seconds", "error_message")]
    print_table("", ["", ""], [(name, value) for name, value in rows if value is not None])
    if document["runs"]:
        print_table("\nDagster runs", ["job", "status", "page"], [_run_row(run) for run in document["runs"]])
    if document["failed"]:
        print_table(
            "\nFailed", ["reason", "path"], [(shown(f["reason"]), shown(f["path"])) for f in document["failed"]]
        )


def _describe_stack(settings: Settings, orchestrator: Orchestrator) -> str:
    """Whether there is anybody who works: what `up` started, or processes that something else keeps running."""
    stack = running_stack(settings.home_path)
    try:
        fault = orchestrator.daemon_fault()
    except StackError:
        return f"runs (process {stack.pid}), but Dagster does not answer" if stack else "does not run"
    if fault is not None:
        return f"does not work: {fault} (Dagster UI {orchestrator.url})"
    return f"runs ({f'process {stack.pid}, ' if stack else ''}Dagster UI {orchestrator.url})"


def _print_jobs(document: Document, where: str) -> None:
    model = document["index_stats"]["model_name"] or "no encoder yet"
    console().print(f"{count(document['total_indexed_images'], 'indexed image')}, {model}; the stack {where}.")
    jobs = {job["job_id"]: job for job in (*document["active_job_details"], *document["recent_jobs"])}
    if not jobs:
        console().print("No job yet.")
        return
    rows = [(job["job_id"], job["status"], job.get("images", ""), job["created_at"]) for job in jobs.values()]
    print_table(f"\n{count(document['active_jobs'], 'active job')}", ["job", "status", "images", "created"], rows)


def _run_row(run: Document) -> tuple[str, str, str]:
    return run["job_name"], run["status"], run["url"]


def _cell(value: object) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
