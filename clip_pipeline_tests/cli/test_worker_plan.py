"""Which servers a worker starts, on which devices, with which command and environment."""

import pytest

from clip_pipeline.cli.stack.processes import MARKER
from clip_pipeline.cli.worker_plan import Seat, planned_seats, seat_environment, seat_folder, seat_program
from clip_pipeline.core.errors import ConfigurationError
from clip_pipeline.settings import Settings

FIRST = Seat("gpu01", 4000, "0.0.0.0", "gpu01", device="auto", visible=None)
DEVICES = {"2": "NVIDIA H200", "5": "NVIDIA H200"}


def described(seats):
    return [(seat.address, seat.name, seat.device, seat.visible) for seat in seats]


@pytest.mark.parametrize(
    ("gpu", "expected"),
    [
        ("auto", [("gpu01:4000", "gpu01", "auto", None)]),
        ("cuda", [("gpu01:4000", "gpu01", "cuda", None)]),
        ("cpu", [("gpu01:4000", "gpu01", "cpu", "")]),
        ("cuda:1", [("gpu01:4000", "gpu01", "cuda", "5")]),
        ("all", [("gpu01:4000", "gpu01-0", "cuda", "2"), ("gpu01:4001", "gpu01-1", "cuda", "5")]),
    ],
)
def test_each_gpu_is_a_server_of_its_own_that_sees_no_other(gpu, expected):
    assert described(planned_seats(FIRST, gpu, devices=DEVICES)) == expected


@pytest.mark.parametrize("gpu", ["cuda:2", "cuda:-1", "cuda:x", "gpu", ""])
def test_a_device_that_is_not_there_is_refused_with_what_there_is(gpu):
    with pytest.raises(ConfigurationError, match="has 2 CUDA devices"):
        planned_seats(FIRST, gpu, devices=DEVICES)


def test_all_of_no_gpus_is_refused():
    with pytest.raises(ConfigurationError, match="has 0 CUDA devices"):
        planned_seats(FIRST, "all", devices={})


def test_the_command_is_a_server_that_can_be_asked_for_its_runs(tmp_path):
    program = seat_program(Settings(home=tmp_path, log_format="json"), FIRST)
    text = " ".join(program.command)
    assert "dagster api grpc --module-name clip_pipeline.gpu_definitions" in text
    assert "--host 0.0.0.0 --port 4000 --location-name gpu" in text
    assert text.endswith("--log-format json")
    assert "code-server" not in text
    assert program.log == tmp_path / "workers" / "gpu01-4000" / "server.log"


def test_runs_find_the_settings_their_device_and_the_mark_of_this_server(tmp_path, monkeypatch):
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    settings = Settings(home=tmp_path, device="cpu", roots="/images")
    (second,) = planned_seats(FIRST, "cuda:1", devices=DEVICES)
    found = seat_environment(settings, second)
    assert (found["CLIP_PIPELINE_DEVICE"], found["CUDA_VISIBLE_DEVICES"]) == ("cuda", "5")
    assert (found["CLIP_PIPELINE_HOME"], found["CLIP_PIPELINE_ROOTS"]) == (str(tmp_path), "/images")
    assert found["DAGSTER_HOME"] == str(tmp_path / "dagster")
    # Another mark than that of a stack of the same home: neither takes the other's processes for its own leftovers.
    assert found[MARKER] == str(seat_folder(settings, second)) != str(tmp_path)
    by_setting = seat_environment(settings, FIRST)
    assert (by_setting["CLIP_PIPELINE_DEVICE"], by_setting["CUDA_VISIBLE_DEVICES"]) == ("cpu", "2,5")
    monkeypatch.setenv("DAGSTER_HOME", "/etc/dagster")
    assert seat_environment(settings, FIRST)["DAGSTER_HOME"] == "/etc/dagster"


def test_a_server_that_listens_everywhere_is_asked_on_this_machine():
    assert (FIRST.asked_at, Seat("h", 1, "10.0.0.7", "h", "cpu", "").asked_at) == ("127.0.0.1", "10.0.0.7")
