"""Names and addresses of this machine: which of them only this machine can reach."""

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope


def is_loopback(host: str) -> bool:
    """True for `localhost` and the loopback addresses: what listens there cannot be reached from elsewhere."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def comes_from_here(scope: Scope) -> bool:
    """Whether the peer is a process of this machine; a proxy that names its client is taken at its word."""
    client = scope.get("client")
    return client is not None and is_loopback(client[0])


def is_asked_for_as_local(headers: Headers) -> bool:
    """Whether `Host` names this machine by an address or as localhost, never by any other name.

    Against DNS rebinding: a web page whose own name was made to resolve to 127.0.0.1 reads whatever is open there, and
    the name is what gives it away.
    """
    hosts = headers.getlist("host")
    return len(hosts) == 1 and _is_this_machine(f"//{hosts[0]}")


def comes_from_local_page(headers: Headers) -> bool:
    """Whether no page of another site sent this: browsers name the page's origin with every write and WebSocket."""
    return all(_is_this_machine(origin) for origin in headers.getlist("origin"))


def comes_from_own_page(headers: Headers) -> bool:
    """Whether a browser says that a page of this very service sent this; a request that does not say so is not one.

    Browsers that send `Sec-Fetch-Site` know best: a proxy in between may have changed `Host`. They send it only over
    https and to this machine; elsewhere `Origin` has to name the host that was asked.
    """
    sites = headers.getlist("sec-fetch-site")
    if sites:
        return sites == ["same-origin"]
    hosts = headers.getlist("host")
    return len(hosts) == 1 and hosts[0] != "" and [_netloc(o) for o in headers.getlist("origin")] == [hosts[0].lower()]


def client_network(scope: Scope) -> str:
    """Whom to count anonymous requests for: the address; of IPv6 its /64, as one client commonly holds all of that."""
    client: Sequence[object] | None = scope.get("client")
    text = str(client[0]) if client else "unknown"
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text
    return text if address.version == 4 else str(ipaddress.ip_network((int(address), 64), strict=False))


def _netloc(url: str) -> str | None:
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:
        return None


def _is_this_machine(url: str) -> bool:
    try:
        host = urlsplit(url).hostname or ""
        # 0.0.0.0 and :: are no names that rebinding could use, and what a service bound to them is announced as.
        return is_loopback(host) or ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
