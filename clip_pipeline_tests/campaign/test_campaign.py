"""A short campaign: four faults of different kinds, and everything still there and counted."""

import json
import subprocess
import sys

import pytest

from clip_pipeline_tests.campaign.network import why_no_network
from clip_pipeline_tests.campaign.site import ROOT

ANYWHERE = ("worker_killed", "postgres_restarted", "daemon_killed")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_short_campaign_ends_well_and_says_so_in_its_report(tmp_path):
    kinds = (*ANYWHERE, "network_cut" if why_no_network() is None else "run_killed")
    report = tmp_path / "report.json"
    command = [
        sys.executable, "-m", "clip_pipeline_tests.campaign", "--faults", "4", "--kinds", ",".join(kinds), "--report",
        str(report), "--folder", str(tmp_path), "--size", "60", "--seed", "7",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=880)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.read_text())
    assert (found["faults"], found["violations"]) == (4, [])
    assert sorted(row["kind"] for row in found["kinds"]) == sorted(kinds)
    assert all(one["recovery_s"] > 0 for one in found["rounds"])
    assert "4 faults" in done.stderr
    assert list(tmp_path.glob("clip-campaign-*")) == []
