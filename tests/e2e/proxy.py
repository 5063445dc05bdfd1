"""The API server without TLS and credentials, by `kubectl proxy`: for programs and threads that ask it a lot."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator

_SERVING = re.compile(r"127\.0\.0\.1:(\d+)")


@contextlib.contextmanager
def running() -> Iterator[int]:
    """The port of this machine that leads to the API server of KUBECONFIG."""
    command = ["kubectl", "proxy", "--port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            found = _SERVING.search(said)
            assert found, said + process.stdout.read()
            yield int(found[1])
        finally:
            process.kill()
