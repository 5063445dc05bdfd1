"""Finds TCP ports on this machine for the processes of a topology. Blocking, instant; called before they start.

A port is free if it can be bound now; between that and the child's own bind another program may take it, in which
case the child fails with a message that names the port.
"""

from __future__ import annotations

import socket
from collections.abc import Collection

from milliner.core import errors


def is_free(host: str, port: int) -> bool:
    """Whether `port` can be bound on `host` now (a port in TIME_WAIT counts as free, as servers bind it anyway)."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def any_free(host: str, *, avoid: Collection[int] = ()) -> int:
    """A port that the kernel calls free and that is not in `avoid`."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind((host, 0))
            port: int = probe.getsockname()[1]
        if port not in avoid:
            return port


def required(host: str, port: int, *, field: str) -> int:
    """`port` itself; raises `ConfigError` on `field` when another program holds it."""
    if not is_free(host, port):
        raise errors.ConfigError(
            f"port {port} on {host} is in use by another program: stop it or choose another port", field=field
        )
    return port


def preferred(host: str, port: int, *, avoid: Collection[int] = ()) -> int:
    """`port` if it is free and not in `avoid`, else any free one."""
    if port not in avoid and is_free(host, port):
        return port
    return any_free(host, avoid=avoid)
