"""The logs of a whole stack as JSON: nothing else in them, and one job's or request's way through all processes.

A run that really fails is told to a real webhook.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from clip_pipeline.core.keys import BatchKey
from clip_pipeline.core.store import Store
from clip_pipeline.ledger.api_keys import Scope, create_key
from clip_pipeline_tests.e2e.stack import Stack, write_photos
from clip_pipeline_tests.webhook import Webhook, open_webhook

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LAUNCH = """mutation Launch($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}"""


@pytest.fixture(scope="module")
def webhook() -> Iterator[Webhook]:
    with open_webhook() as opened:
        yield opened


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, webhook: Webhook) -> Iterator["Told"]:
    base = tmp_path_factory.mktemp("logs")
    photos = base / "photos"
    write_photos(photos, 6)
    extra = {
        "CLIP_PIPELINE_ROOTS": str(photos), "CLIP_PIPELINE_LOG_FORMAT": "json",
        "CLIP_PIPELINE_ALERT_WEBHOOK": webhook.url, "CLIP_PIPELINE_DAGSTER_PUBLIC_URL": "https://dagster.example.org",
    }  # fmt: skip
    stack = Stack(base / "home", base / "watched", extra=extra)
    try:
        stack.start()
        stack.wait_ready(300)
        yield Told(stack, photos)
        stack.stop()
    finally:
        stack.kill_everything()


class Told:
    """A job, an upload and a failing run on a stack."""

    def __init__(self, stack: Stack, photos: Path) -> None:
        self.stack = stack
        key = create_key(stack.ledger, "test", scope=Scope.WRITE, expires_at=datetime.now(UTC) + timedelta(days=1))
        self.secret = key.token
        headers = {"Authorization": f"Bearer {self.secret}", "X-Request-ID": "the-submission"}
        with httpx.Client(base_url=stack.url, headers=headers, timeout=60, trust_env=False) as client:
            stack.wait(lambda: client.get("/api/v1/index/stats").is_success, "the key is taken", 20)
            body = {"image_paths": [str(path) for path in sorted(photos.iterdir())]}
            self.job_id = client.post("/api/v1/index/add-images", json=body).raise_for_status().json()["job_id"]
            upload = next(photos.iterdir()).read_bytes()
            answer = client.post("/analyze-image", files={"file": ("a.jpg", upload)}, data={"labels": "cat,dog"})
            self.request_id = answer.raise_for_status().json()["request_id"]
            stack.wait_idle(files=6)
            status = f"/status/{self.request_id}"
            stack.wait(lambda: client.get(status).json()["status"] == "completed", "the answer to the upload", 200)

    def fail_a_run(self) -> str:
        """Launch a run of a batch whose manifest is gone; returns its id."""
        Store(self.stack.home / "store").manifest_path(BatchKey(1)).unlink()
        tags = {"dagster/partition": "b0000001", "dagster/max_retries": "0", f"clip/job/{self.job_id}": "1"}
        job = {"repositoryLocationName": "gpu", "repositoryName": "__repository__", "jobName": "embed_images"}
        params = {
            "selector": job,
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
        }  # fmt: skip
        launched = self.stack.graphql(LAUNCH, params=params)["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return launched["run"]["runId"]

    def lines(self, program: str) -> list[dict[str, Any]]:
        """What a program has logged; each line must be an object with these fields."""
        found = []
        for number, line in enumerate((self.stack.home / "logs" / f"{program}.log").read_text().splitlines()):
            try:
                document = json.loads(line)
            except ValueError:
                raise AssertionError(f"{program}.log, line {number}: {line!r}") from None
            assert {"timestamp", "level", "event"} <= set(document), line
            found.append(document)
        return found


def test_a_failing_run_is_told_to_the_webhook_in_one_line_with_its_page(told: Told, webhook: Webhook):
    run_id = told.fail_a_run()
    told.stack.wait(lambda: bool(webhook.told), "the webhook is told", 120)
    (text,) = [document["text"] for document in webhook.told]
    assert text.startswith(f"embed_images failed for good (batch b0000001, job {told.job_id}): run {run_id}: ")
    assert text.endswith(f" https://dagster.example.org/runs/{run_id}")
    assert "\n" not in text


@pytest.mark.parametrize("program", ["api", "control", "gpu", "daemon", "webserver"])
def test_every_line_of_every_program_is_json_without_secrets(told: Told, webhook: Webhook, program: str):
    text = json.dumps(told.lines(program))
    assert text.count("starting program") >= 1
    assert told.secret not in text
    assert webhook.url not in text


def test_a_job_is_followed_by_its_id_from_the_request_to_its_runs(told: Told):
    (submitted,) = [line for line in told.lines("api") if line["event"] == "job submitted"]
    assert (submitted["job_id"], submitted["request_id"]) == (told.job_id, "the-submission")
    for program, steps in (("control", {"inspect_images", "merge_index"}), ("gpu", {"embed_images"})):
        lines = [line for line in told.lines(program) if told.job_id in line.get("job_ids", [])]
        assert [line for line in lines if line["event"] == "run requested"]
        runs = {line["dagster_job"]: line["run_id"] for line in lines if "dagster_job" in line}
        assert set(runs) >= steps
    batches = {line["batch"] for line in told.lines("gpu") if line.get("dagster_job") == "embed_images"}
    assert batches == {"b0000001"}
    (embedded,) = [line for line in told.lines("gpu") if line["event"] == "batch embedded"]
    assert (embedded["job_ids"], embedded["batch"]) == ([told.job_id], "b0000001")
    assert embedded["run_id"]


def test_an_upload_is_followed_by_its_id_from_the_request_to_the_lane(told: Told):
    paths = [line["path"] for line in told.lines("api") if line["event"] == "request"]
    assert f"/status/{told.request_id}" in paths
    (analyzed,) = [line for line in told.lines("gpu") if line["event"] == "uploads analyzed"]
    assert analyzed["request_ids"] == [told.request_id]
    assert analyzed["run_id"]


def test_what_failed_is_a_field_of_its_line(told: Told):
    failed = [line for line in told.lines("gpu") if line.get("dagster_event") == "STEP_FAILURE"]
    assert failed
    assert all("b0000001" in line["exception"] for line in failed)
