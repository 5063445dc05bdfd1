"""Finds TCP ports on this machine for the processes of a topology. Blocking, instant; called before they start.

A port is free if it can be bound now. Seconds pass until the child binds it, so runners tell one another which ports
they have given away: each holds, while it lives, a socket of an abstract name per port (Linux; the kernel frees the
name with the process). Another program may still take the port meanwhile: then the child fails, and `runner` starts
it again with another one.
"""

from __future__ import annotations

import atexit
import socket
import sys
from collections.abc import Collection

from milliner.core import errors

_held: dict[int, socket.socket] = {}  # ports that this process has given away, for its whole life


def is_free(host: str, port: int) -> bool:
    """Whether `port` can be bound on `host` now (a port in TIME_WAIT counts as free, as servers bind it anyway)."""
    return _obstacle(host, port) is None


def _obstacle(host: str, port: int) -> OSError | None:
    """Why `port` cannot be bound; None if it can."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None


def any_free(host: str, *, avoid: Collection[int] = ()) -> int:
    """A port that the kernel calls free, that is not in `avoid` and that no runner, this one included, gave away."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind((host, 0))
            port: int = probe.getsockname()[1]
        if port not in avoid and port not in _held and _claim(port):
            return port


def required(host: str, port: int, *, field: str) -> int:
    """`port` itself; raises `ConfigError` on `field` when another program holds it or this user may not have it."""
    obstacle = _obstacle(host, port)
    if isinstance(obstacle, PermissionError):
        raise errors.ConfigError(f"port {port} needs rights that you lack: choose one from 1024 on", field=field)
    if obstacle is not None or not _claim(port):
        raise taken(host, port, field=field)
    return port


def taken(host: str, port: int, *, field: str) -> errors.ConfigError:
    """The error of a port that was asked for and that another program holds."""
    return errors.ConfigError(
        f"port {port} on {host} is in use by another program: stop it or choose another port", field=field
    )


def preferred(host: str, port: int, *, avoid: Collection[int] = ()) -> int:
    """`port` if it is free and not in `avoid`, else any free one."""
    if port not in avoid and is_free(host, port) and _claim(port):
        return port
    return any_free(host, avoid=avoid)


def _claim(port: int) -> bool:
    """Whether this process may give the port away: no other runner on this machine has."""
    if port in _held or sys.platform != "linux":
        return True
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        claim.bind(f"\0milliner/port/{port}")
    except OSError:
        claim.close()
        return False
    _held[port] = claim
    atexit.register(claim.close)  # the kernel would free the name too, but Python warns of what is left open
    return True
