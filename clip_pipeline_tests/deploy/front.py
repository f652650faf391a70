"""Caddy with this project's Caddyfile, in front of real Dagster webservers, on loopback."""

import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import httpx

from clip_pipeline.cli.stack.plan import CODE_LOCATIONS, instance_settings
from clip_pipeline_tests.serving.world import free_port

CADDY = shutil.which("caddy")
DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
CADDYFILE, PROBE = DEPLOY / "caddy" / "Caddyfile", DEPLOY / "probe.py"
OPERATOR, PASSWORD = "operator", "correct horse battery staple"
READ_WRITE, READ_ONLY = "/dagster", "/dagster-read-only"
START_S = 180


def password_hash(password):
    """As `caddy hash-password` has it, for the Caddyfile."""
    command = [CADDY, "hash-password", "--plaintext", password]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


@contextmanager
def started(command, *, environment, log, is_up, what):
    """A process that is up in the block and gone, with what it started, after it."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=dict(os.environ) | environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        deadline = time.monotonic() + START_S
        while not is_up():
            assert process.poll() is None, f"{what} ended with {process.returncode}: {log.read_text()[-2000:]}"
            assert time.monotonic() < deadline, f"{what} is not up: {log.read_text()[-2000:]}"
            time.sleep(0.1)
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=20)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@contextmanager
def webservers(folder):
    """The two webservers on one home, with a code server of the location `control`; yields their ports."""
    folder.mkdir(parents=True)
    code, ports = free_port(), {READ_WRITE: free_port(), READ_ONLY: free_port()}
    workspace = folder / "workspace.yaml"
    (folder / "dagster.yaml").write_bytes(instance_settings())
    workspace.write_text(f"load_from: [grpc_server: {{host: 127.0.0.1, port: {code}, location_name: control}}]\n")
    environment = {"DAGSTER_HOME": str(folder), "CLIP_PIPELINE_HOME": str(folder.parent / "home")}
    server = [
        sys.executable, "-m", "dagster", "api", "grpc", "--module-name", CODE_LOCATIONS["control"], "--host",
        "127.0.0.1", "--port", str(code), "--location-name", "control", "--use-python-environment-entry-point",
    ]  # fmt: skip
    is_up = partial(serves_grpc, f"grpc://127.0.0.1:{code}")
    with ExitStack() as stack:
        # One after the other: together they would make the tables of one SQLite file at once.
        stack.enter_context(
            started(server, environment=environment, log=folder / "code.log", is_up=is_up, what="the code server")
        )
        for prefix, port in ports.items():
            command = [
                sys.executable, "-m", "dagster_webserver", "--workspace", str(workspace), "--host", "127.0.0.1",
                "--port", str(port), "--path-prefix", prefix, *(["--read-only"] if prefix == READ_ONLY else []),
            ]  # fmt: skip
            stack.enter_context(_webserver(command, f"http://127.0.0.1:{port}{prefix}", environment=environment))
        yield ports


def _webserver(command, address, *, environment):
    log = Path(environment["DAGSTER_HOME"]) / f"webserver-{address.rpartition('/')[2]}.log"
    is_up = partial(_answers, f"{address}/server_info")
    return started(command, environment=environment, log=log, is_up=is_up, what=f"the webserver at {address}")


@contextmanager
def caddy(folder, *, api_ports, dagster_ports):
    """Caddy with a certificate of its own; yields a client that trusts it, and knows no key and no password."""
    folder.mkdir(parents=True)
    port, authority = free_port(), folder / "caddy" / "pki" / "authorities" / "local" / "root.crt"
    environment = {
        "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "CADDY_ADMIN": "off",
        "CADDY_HTTP_PORT": str(free_port()), "CADDY_HTTPS_PORT": str(port), "CLIP_PIPELINE_SITE": "localhost",
        "CLIP_PIPELINE_TLS": "internal", "DAGSTER_USER": OPERATOR, "DAGSTER_PASSWORD_HASH": password_hash(PASSWORD),
        "API_UPSTREAM": "to " + " ".join(f"127.0.0.1:{port}" for port in api_ports),
        "DAGSTER_UPSTREAM": f"to 127.0.0.1:{dagster_ports[READ_WRITE]}",
        "DAGSTER_READ_ONLY_UPSTREAM": f"to 127.0.0.1:{dagster_ports[READ_ONLY]}",
    }  # fmt: skip
    command = [str(CADDY), "run", "--config", str(CADDYFILE), "--adapter", "caddyfile"]

    def is_up():
        return authority.exists() and _answers(f"https://localhost:{port}/ui/login", authority=authority)

    with (
        started(command, environment=environment, log=folder / "caddy.log", is_up=is_up, what="Caddy"),
        httpx.Client(
            base_url=f"https://localhost:{port}", verify=trusting(authority), trust_env=False, timeout=30
        ) as client,
    ):
        yield client, authority


def trusting(authority):
    """The TLS of a client that trusts this authority alone."""
    return ssl.create_default_context(cafile=str(authority))


def serves_grpc(address):
    """Whether a code server says that it serves, by the probe that containers have."""
    return subprocess.run([sys.executable, str(PROBE), address], capture_output=True, timeout=60).returncode == 0


def _answers(address, *, authority=None):
    try:
        verify = True if authority is None else trusting(authority)
        return httpx.get(address, verify=verify, trust_env=False, timeout=5).status_code < 500
    except httpx.HTTPError:
        return False
