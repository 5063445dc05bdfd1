"""Roles as real processes, started and killed one by one: no supervisor starts again what a test has killed."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping

import httpx

from milliner.contract import role_config, role_events

READY_S = 120.0  # importing torch on a busy machine


class Role:
    """One running role process; its log goes to a file beside its configuration."""

    def __init__(
        self,
        config: role_config.Config,
        folder: pathlib.Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        path = folder / f"{config.name}.json"
        path.write_text(config.to_json())
        self.log = folder / f"{config.name}.log"
        command = [sys.executable, "-m", "milliner.roles", config.role, "--config", str(path)]
        variables = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **(environment or {})}
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=log, text=True)
        self.events: list[role_events.RoleEvent] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.port = 0

    def wait_for(self, kind: role_events.RoleEventKind, *, count: int = 1) -> None:
        """Until the role has written `count` such events."""
        wait_until(
            lambda: sum(event.event is kind for event in self.events) >= count or self.process.poll() is not None,
            within_s=READY_S,
        )
        assert self.process.poll() is None, self.log.read_text()
        self.port = next(event.port for event in self.events if event.port)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def close(self) -> None:
        """Kills the process if it lives and reads its last words."""
        self.kill()
        self._reader.join(10)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if (event := role_events.parse_line(line)) is not None:
                self.events.append(event)


@contextlib.contextmanager
def running(
    config: role_config.Config,
    folder: pathlib.Path,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Role]:
    """A role that has become ready; killed at the end."""
    role = Role(config, folder, environment)
    try:
        role.wait_for(role_events.RoleEventKind.READY)
        yield role
    finally:
        role.close()


def wait_until(condition: Callable[[], bool], *, within_s: float) -> float:
    """Waits for the condition and returns the seconds that it took; fails after `within_s`."""
    started_s = time.monotonic()
    while not condition():
        assert time.monotonic() - started_s < within_s, f"did not come true within {within_s} s"
        time.sleep(0.02)
    return time.monotonic() - started_s


class Device:
    """A device role's HTTP API."""

    def __init__(self, role: Role) -> None:
        self.url = f"http://127.0.0.1:{role.port}"

    def readiness(self) -> tuple[int, str]:
        """Status of `/readyz` and its reason."""
        response = httpx.get(f"{self.url}/readyz", timeout=10, trust_env=False)
        return response.status_code, response.json().get("reason", "")

    @property
    def ready(self) -> bool:
        return self.readiness()[0] == 200

    def ask(self, max_tokens: int) -> httpx.Response:
        body = {"model": "tiny", "prompt": "hello", "max_tokens": max_tokens, "temperature": 0}
        body |= {"ignore_eos": True, "return_token_ids": True}
        return httpx.post(f"{self.url}/v1/completions", json=body, timeout=90, trust_env=False)

    def answer(self, max_tokens: int) -> list[int]:
        """The token ids of an answer."""
        response = self.ask(max_tokens)
        assert response.status_code == 200, response.text
        tokens: list[int] = response.json()["choices"][0]["token_ids"]
        return tokens
