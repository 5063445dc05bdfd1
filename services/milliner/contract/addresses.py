"""Hosts and ports as one text: `host:port`, with brackets around addresses of IPv6."""

from __future__ import annotations


def join(host: str, port: int) -> str:
    """`host:port` of a name or address; one of IPv6 may have its brackets already."""
    bare = bare_host(host)
    return f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}"


def bare_host(host: str) -> str:
    """The host without brackets, as sockets and certificates have it."""
    return host.removeprefix("[").removesuffix("]")
