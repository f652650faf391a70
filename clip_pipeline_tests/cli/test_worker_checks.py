"""What a worker makes sure of: each thing that can be wrong is found and said with its remedy."""

import json
import os

import pytest
from sqlalchemy import update

from clip_pipeline.cli import worker_checks
from clip_pipeline.cli.stack.held_file import hold
from clip_pipeline.cli.stack.ports import free_port
from clip_pipeline.cli.worker_checks import Findings, make_checks
from clip_pipeline.core.pinning import pin_encoder
from clip_pipeline.embedding.registry import load_encoder
from clip_pipeline.ledger.database import Ledger, open_ledger
from clip_pipeline.ledger.deployment import adopt_store
from clip_pipeline.ledger.schema import deployment
from clip_pipeline.settings import Settings
from clip_pipeline_tests.fakes import HashEncoder
from clip_pipeline_tests.serving.world import bind

NAMES = ["home", "port", "dagster", "ledger", "clock", "versions", "store", "roots", "device", "encoder", "canary"]


@pytest.fixture
def settings(home, monkeypatch):
    """A home that a controller has prepared for the built-in encoder."""
    monkeypatch.setenv("DAGSTER_HOME", str(home / "dagster"))
    (home / "dagster").mkdir(parents=True)
    (home / "dagster" / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    settings = Settings(device="cpu")
    ledger = open_ledger(settings.ledger_location)
    adopt_store(ledger, settings.store)
    ledger.close()
    pin_encoder(settings.store, load_encoder("builtin", device="cpu").spec)
    return settings


@pytest.fixture
def no_weights(monkeypatch):
    """Loading and the canary are not what the test is about: they cost seconds."""
    monkeypatch.setattr(worker_checks, "_check_encoder", lambda *_, **__: None)


def checks(settings, port=0):
    return make_checks(settings, listen="127.0.0.1", port=port or free_port(), renew=False)


def faults(found: Findings):
    return {check.name: check.detail for check in found.checks if check.ok is False}


def rewrite(settings, change):
    ledger: Ledger = open_ledger(settings.ledger_location)
    with ledger.write() as connection:
        connection.execute(change)
    ledger.close()


def test_a_worker_in_order_passes_every_check_with_the_real_encoder(settings):
    found = checks(settings)
    assert faults(found) == {}
    assert [check.name for check in found.checks] == NAMES
    assert found.all_hold
    assert "least cosine 0.9999" in found.checks[-1].detail or "least cosine 1.0000" in found.checks[-1].detail
    assert (found.encoder, found.gpu[:3]) == ("builtin-conse-efficientnet-lite0-minilm", "cpu")
    assert len(found.fingerprint) == 64


@pytest.mark.usefixtures("no_weights")
def test_an_empty_home_fails_with_remedies_and_checks_what_it_can(tmp_path, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "nowhere"))
    monkeypatch.delenv("CLIP_PIPELINE_LEDGER_URL", raising=False)
    found = checks(Settings(home=tmp_path / "absent", roots=f"{tmp_path}:/no/such/folder"))
    said = faults(found)
    assert "mount the controller's home" in said["home"]
    assert "no dagster.yaml" in said["dagster"]
    assert "clip-pipeline init" in said["ledger"]
    assert "/no/such/folder: No such file" in said["roots"]
    unmade = {check.name: check.detail for check in found.checks if check.ok is None}
    assert unmade == dict.fromkeys(("clock", "versions", "store"), "not made: ledger failed")
    assert not found.all_hold
    assert not (tmp_path / "absent").exists()


@pytest.mark.usefixtures("no_weights")
def test_a_taken_port_is_found(settings):
    with bind("127.0.0.1", 0) as listener:
        said = faults(checks(settings, port=listener.getsockname()[1]))
    assert list(said) == ["port"]
    assert "choose another --port" in said["port"]


@pytest.mark.usefixtures("no_weights")
def test_another_store_under_the_same_path_is_found(settings):
    """A mount that failed leaves an empty folder, which a worker would fill with embeddings that nobody finds."""
    settings.store.identity_path.unlink()
    assert "has no id" in faults(checks(settings))["store"]


@pytest.mark.usefixtures("no_weights")
def test_a_store_that_no_controller_claimed_is_found(settings):
    rewrite(settings, deployment.delete())
    assert "no controller has said yet" in faults(checks(settings))["store"]


@pytest.mark.usefixtures("no_weights")
def test_a_store_that_cannot_be_written_is_found(settings, monkeypatch):
    def full(path):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("clip_pipeline.core.store.fsync_path", full)
    assert "No space left" in faults(checks(settings))["store"]


@pytest.mark.usefixtures("no_weights")
def test_another_version_than_the_controllers_is_found(settings):
    rewrite(settings, update(deployment).where(deployment.c.name == "dagster_version").values(value="1.0.0"))
    said = faults(checks(settings))
    assert list(said) == ["versions"]
    assert "the controller's 1.0.0; install" in said["versions"]


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize(("ahead_s", "said"), [(90.0, "90.0 s ahead of"), (-7.2, "7.2 s behind"), (4.0, None)])
def test_a_clock_that_is_wrong_is_found(settings, monkeypatch, ahead_s, said):
    monkeypatch.setattr(worker_checks, "clock_difference_s", lambda _ledger: ahead_s)
    assert (said or "") in faults(checks(settings)).get("clock", "")
    assert ("clock" in faults(checks(settings))) is (said is not None)


def test_cuda_that_is_not_there_keeps_the_encoder_from_being_tried(settings):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is CUDA here")
    found = checks(settings.model_copy(update={"device": "cuda"}))
    assert "CUDA" in faults(found)["device"]
    assert [check.ok for check in found.checks[-2:]] == [None, None]


def test_an_encoder_that_is_not_the_pinned_one_is_found(settings):
    settings.store.pinned_encoder_path.unlink()
    assert "init" in faults(checks(settings))["encoder"]
    spec = load_encoder("builtin", device="cpu").spec
    other = spec.to_json().replace(spec.fingerprint, "0" * 64)
    settings.store.pinned_encoder_path.write_text(other)
    found = checks(settings)
    assert "pinned" in faults(found)["encoder"]
    assert found.checks[-1].ok is None


def test_a_canary_that_is_not_reproduced_is_found_and_renewed_on_a_persons_word(settings, monkeypatch):
    monkeypatch.setattr("clip_pipeline.embedding.registry.load_pinned_encoder", lambda *_, **__: HashEncoder())
    assert "the first under this fingerprint" in checks(settings).checks[-1].detail
    golden = settings.store.canary_path(HashEncoder().spec.key).read_bytes()
    wrong = HashEncoder(seed=9)
    wrong._spec = HashEncoder().spec
    monkeypatch.setattr("clip_pipeline.embedding.registry.load_pinned_encoder", lambda *_, **__: wrong)
    assert "does not reproduce" in faults(checks(settings))["canary"]
    renewed = make_checks(settings, listen="127.0.0.1", port=free_port(), renew=True)
    assert "on your word" in renewed.checks[-1].detail
    assert renewed.all_hold
    assert settings.store.canary_path(wrong.spec.key).read_bytes() != golden


@pytest.mark.slow
def test_the_command_line_tells_what_a_process_of_its_own_found(settings, command):
    settings.store.pinned_encoder_path.unlink()  # with it, this would take the time that loading takes
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        ended = command("worker", "--check", "--gpu", "cpu", "--port", port, "--json")
    assert ended.status == 10
    assert f"127.0.0.1:{port}: port, 127.0.0.1:{port}: encoder failed" in ended.err
    (document,) = json.loads(ended.out)
    assert (document["ok"], document["address"]) == (False, f"127.0.0.1:{port}")
    assert {check["name"]: check["ok"] for check in document["checks"] if not check["ok"]} == {
        "port": False, "encoder": False, "canary": None,
    }  # fmt: skip


def test_a_second_worker_at_an_address_leaves_the_first_alone(settings, command):
    """It would have taken the first one's server and runs for leftovers, and killed them."""
    port = free_port()
    held = hold(settings.home_path / "workers" / f"127.0.0.1-{port}" / "worker.json")
    assert held is not None
    held.write({"pid": 4711})
    ended = command("worker", "--gpu", "cpu", "--port", port)
    held.release()
    assert (ended.status, ended.out) == (10, "")
    assert "already (process 4711); choose another --port" in ended.err


def test_a_home_that_is_not_mounted_is_not_made(tmp_path, monkeypatch, command):
    monkeypatch.setenv("CLIP_PIPELINE_HOME", str(tmp_path / "absent"))
    monkeypatch.setattr(worker_checks, "MODULE", "clip_pipeline_tests.cli.dies")
    assert command("worker", "--gpu", "cpu").status == 10
    assert not (tmp_path / "absent").exists()


def test_checks_that_die_are_a_finding_too(settings, monkeypatch, command):
    monkeypatch.setattr(worker_checks, "MODULE", "clip_pipeline_tests.cli.dies")
    ended = command("worker", "--check", "--gpu", "cpu")
    assert ended.status == 10
    assert "killed by SIGSEGV" in ended.out
    assert os.environ["CLIP_PIPELINE_HOME"] == str(settings.home_path)
