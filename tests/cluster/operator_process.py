"""The operator as a process of its own beside a real API server, watching one namespace, with its metrics at hand."""

from __future__ import annotations

import copy
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
import urllib.request

STOP_S = 30.0


class OperatorProcess:
    """Starts, stops and kills the operator; its log goes to a file."""

    def __init__(self, *, kubeconfig: pathlib.Path, namespace: str, image: str, log: pathlib.Path) -> None:
        self._environment = os.environ | {
            "KUBECONFIG": str(kubeconfig),
            "MILLINER_WATCH_NAMESPACES": namespace,
            "MILLINER_RUNTIME_IMAGE": image,
            "MILLINER_RESYNC_SECONDS": "5",
        }
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    def another(self, *, namespace: str = "", image: str = "") -> OperatorProcess:
        """One more like this, that does not run yet; for another namespace and another image if they are given."""
        found = copy.copy(self)
        found._process, found._log = None, self._log.with_name(f"{self._log.name}-another-{namespace}")
        others = {"MILLINER_WATCH_NAMESPACES": namespace, "MILLINER_RUNTIME_IMAGE": image}
        found._environment = self._environment | {name: value for name, value in others.items() if value}
        return found

    def start(self) -> None:
        self._port, liveness = _free_port(), _free_port()
        ports = {"MILLINER_METRICS_PORT": str(self._port), "MILLINER_LIVENESS_PORT": str(liveness)}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "milliner_operator"], env=self._environment | ports, stdout=log, stderr=log
            )

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Ends it, if it runs; returns its exit status."""
        if self._process is None:
            return 0
        self._process.send_signal(how)
        status = self._process.wait(timeout=STOP_S)
        self._process = None
        return status

    def check(self) -> None:
        """AssertionError with its last words where it has ended by itself: nobody need wait for what it would do."""
        if self._process is not None and (status := self._process.poll()) is not None:
            raise AssertionError(f"the operator ended with status {status}:\n{self.log[-4000:]}")

    def metric(self, name: str) -> float:
        """The value of a metric without labels; 0 before the operator answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            return 0.0
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))

    def passes(self, count: int, *, deadline_s: float = 60.0) -> None:
        """Waits until it has made so many more passes."""
        first = self.metric("milliner_operator_reconciles_total")
        deadline = time.monotonic() + deadline_s
        while self.metric("milliner_operator_reconciles_total") < first + count:
            self.check()
            assert time.monotonic() < deadline, f"fewer than {count} passes in {deadline_s} s"
            time.sleep(0.2)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
