"""Ports: free, taken by another program, given away by another runner."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from milliner.core import errors
from milliner.local import ports

HOST = "127.0.0.1"


def test_a_bound_port_is_avoided_and_refused_where_required() -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        assert not ports.is_free(HOST, port)
        assert ports.preferred(HOST, port) != port
        with pytest.raises(errors.ConfigError, match=f"--port: port {port} on {HOST} is in use"):
            ports.required(HOST, port, field="--port")


def test_what_is_free_is_taken_and_what_is_to_be_avoided_is_not() -> None:
    port = ports.any_free(HOST)
    assert ports.preferred(HOST, port) == port
    assert ports.required(HOST, port, field="--port") == port
    assert ports.preferred(HOST, port, avoid={port}) != port


@pytest.mark.skipif(sys.platform != "linux", reason="runners tell one another of ports on Linux only")
def test_two_runners_never_give_away_the_same_port() -> None:
    """Neither has bound it: their children will, seconds later."""
    code = f"from milliner.local import ports; print(ports.any_free({HOST!r}), flush=True); input()"
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with other:
        assert other.stdout is not None
        port = int(other.stdout.readline())
        assert ports.is_free(HOST, port)
        assert ports.preferred(HOST, port) != port
        other.communicate("\n")
    assert ports.preferred(HOST, port) == port
