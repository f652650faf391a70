"""The firewall: read by nft itself, and its ports held against those that the services use."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
RULES = DEPLOY / "nftables.conf"
NFT = shutil.which("nft") or shutil.which("nft", path="/usr/sbin:/sbin")


def nft(*arguments, **options):
    return subprocess.run([str(NFT), *arguments], capture_output=True, text=True, timeout=30, **options)


@pytest.fixture
def checked():
    """What `nft --check` says; skipped where there is none, or it may not ask the kernel."""
    if NFT is None:
        pytest.skip("nft is not installed")
    if nft("--check", "--file", "-", input="table inet probe {}\n").returncode != 0:
        pytest.skip("nft may not ask the kernel here; it wants root")
    return lambda text: nft("--check", "--file", "-", input=text)


def test_nft_accepts_the_rules(checked):
    ended = checked(RULES.read_text())
    assert (ended.returncode, ended.stderr) == (0, "")


def test_nft_refuses_rules_with_a_set_that_is_not_there(checked):
    ended = checked(RULES.read_text().replace("@workers ", "@nobody "))
    assert ended.returncode != 0


def test_what_is_not_named_is_dropped():
    (hook,) = re.findall(r"type filter hook \w+ priority \w+; policy (\w+);", RULES.read_text())
    assert hook == "drop"


def test_the_ports_of_what_has_no_log_in_are_open_to_nobody_or_to_the_controller_alone():
    rules = "\n".join(line for line in RULES.read_text().splitlines() if not line.strip().startswith("#"))
    loopback_only = {"3000", "3001", "4000", "4001", "6379", "8000", "9090"}
    assert not loopback_only & set(re.findall(r"\b\d{2,5}\b", rules))
    uses = re.findall(r"^.*@worker_tcp.*$", rules, re.MULTILINE)
    assert [re.findall(r"saddr @(\w+)", use) for use in uses] == [["controllers"], ["controllers6"]]


def test_workers_listen_where_the_controller_may_reach_them():
    unit = (DEPLOY / "systemd" / "clip-pipeline-worker@.service").read_text()
    (port,) = re.findall(r"WORKER_PORT=(\S+)", unit)
    first, last = re.findall(r"elements = \{ (\d+)-(\d+) \}", RULES.read_text())[0]
    assert all(int(first) <= int(port.replace("%i", str(gpu))) <= int(last) for gpu in range(8))
