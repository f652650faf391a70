"""Hosts of their own on one machine: a network namespace for each worker, on a bridge that the controller is on too.

Everybody shares the disk, as hosts share a file system; a cut takes away the controller and the databases.
"""

import os
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

_FIRST, _LAST = 16, 250
_CABLE = "up0"


@dataclass(frozen=True, slots=True)
class Host:
    """A namespace. address: as the controller reaches it; cable: the controller's end of its link."""

    namespace: str
    address: str
    cable: str

    @property
    def entry(self) -> list[str]:
        """What a command is prefixed with to run there."""
        return ["nsenter", f"--net=/run/netns/{self.namespace}", "--"]


@dataclass(slots=True)
class Network:
    """A bridge with its hosts. address: of the controller, as the hosts reach it."""

    name: str
    subnet: str
    hosts: list[Host] = field(default_factory=list[Host])

    @property
    def address(self) -> str:
        return f"{self.subnet}.1"

    def add_host(self) -> Host:
        """A host more, connected."""
        number = len(self.hosts) + 1
        host = Host(f"{self.name}n{number}", f"{self.subnet}.{number + 1}", f"{self.name}v{number}")
        self.hosts.append(host)
        _ip("netns", "add", host.namespace)
        _ip("link", "add", host.cable, "type", "veth", "peer", "name", _CABLE, "netns", host.namespace)
        _ip("link", "set", host.cable, "master", self.name, "up")
        _ip("-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", _CABLE)
        _ip("-n", host.namespace, "link", "set", _CABLE, "up")
        _ip("-n", host.namespace, "link", "set", "lo", "up")
        return host

    def cut(self, host: Host) -> None:
        """Pull the cable: nothing passes in either direction, and nobody is told."""
        _ip("link", "set", host.cable, "down")

    def heal(self, host: Host) -> None:
        """Plug the cable in again."""
        _ip("link", "set", host.cable, "up")

    def shut(self, host: Host, *, port: int) -> None:
        """Drop what comes from outside for one port of the host, which itself still reaches everybody."""
        rule = f"tcp dport {port} iifname {_CABLE} drop"
        hook = "type filter hook input priority 0;"
        text = f"table inet campaign {{ chain input {{ {hook} {rule}; }}; }}"
        _run([*host.entry, "nft", text])

    def open(self, host: Host) -> None:
        """Let it through again."""
        _run([*host.entry, "nft", "delete table inet campaign"])

    def close(self) -> None:
        """Take everything away that can still be found."""
        for host in self.hosts:
            with suppress(RuntimeError):
                _ip("link", "del", host.cable)
            with suppress(RuntimeError):
                _ip("netns", "del", host.namespace)
        with suppress(RuntimeError):
            _ip("link", "del", self.name)


def why_no_network() -> str | None:
    """Why no namespaces can be made here, with the remedy; None where they can."""
    if os.geteuid() != 0:
        return "network namespaces need root; run the campaign with sudo"
    missing = [program for program in ("ip", "nft", "nsenter") if shutil.which(program) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian: apt-get install iproute2 nftables util-linux)"
    try:
        _ip("netns", "add", f"clipt{os.getpid()}")
        _ip("netns", "del", f"clipt{os.getpid()}")
    except RuntimeError as error:
        return f"network namespaces are not permitted here ({error}); run it on a machine or in a privileged container"
    return None


@contextmanager
def running_network() -> Generator[Network, None, None]:
    """A bridge without hosts; it and its hosts are gone afterwards."""
    _clear_away()
    network = Network(f"clip{os.getpid()}", _free_subnet())
    try:
        _ip("link", "add", network.name, "type", "bridge")
        _ip("addr", "add", f"{network.address}/24", "dev", network.name)
        _ip("link", "set", network.name, "up")
        yield network
    finally:
        network.close()


def _clear_away() -> None:
    """Remove what campaigns left behind that were killed themselves."""
    for path in Path("/sys/class/net").glob("clip*"):
        owner = path.name.removeprefix("clip").partition("v")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            _ip("link", "del", path.name)
    for path in Path("/run/netns").glob("clip*n*"):
        owner = path.name.removeprefix("clip").partition("n")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            _ip("netns", "del", path.name)


def _free_subnet() -> str:
    taken = _run(["ip", "-o", "-4", "addr"])
    return next(net for n in range(_FIRST, _LAST) if f" {(net := f'10.231.{n}')}." not in taken)


def _ip(*arguments: str) -> None:
    _run(["ip", *arguments])


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
