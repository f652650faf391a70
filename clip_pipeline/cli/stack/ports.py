"""TCP ports on this machine: which are free, and who is told when one is not."""

import socket

from clip_pipeline.core.errors import StackError

LOOPBACK = "127.0.0.1"


def free_port(host: str = LOOPBACK) -> int:
    """A port that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """True where a server could listen at `port` now."""
    with socket.socket() as probe:
        # As servers do: connections of the stack that ran before linger for a minute and are in nobody's way.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def is_answering(port: int, host: str = LOOPBACK) -> bool:
    """True where somebody accepts a connection at `port`."""
    try:
        with socket.create_connection((host, port), timeout=1.0):
            return True
    except OSError:
        return False


def chosen_port(wanted: int, host: str, *, what: str, option: str, variable: str) -> int:
    """`wanted`, or any free port where it is 0.

    Raises:
        StackError: another program listens there.
    """
    if wanted == 0:
        return free_port(host)
    if not is_free(wanted, host):
        raise StackError(
            f"port {wanted} of {host}, for the {what}, is in use by another program; stop that one, or choose another "
            f"port with {option} or {variable}"
        )
    return wanted


def kept_or_free(previous: int | None, *, taken: set[int]) -> int:
    """The port of the last time where it is free still, else any other; never one of `taken`."""
    if previous is not None and previous not in taken and is_free(previous):
        return previous
    while (port := free_port()) in taken:
        pass
    return port
