"""One child process: started, its two output streams read line by line, ended politely or by force.

Does not restart anything (`supervisor` does). Runs on the runner's event loop. Children get their own session, so
that Ctrl-C in the terminal reaches the runner alone, which then ends them in order; the lifeline pipe and, on Linux,
the parent-death signal see to it that none outlives the runner (`roles.lifeline` is the other end).
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import os
import signal
from collections.abc import Callable, Mapping

from milliner.contract import role_events

_LINE_LIMIT_BYTES = 1 << 20  # arbitrary: far above any line that a role writes
_TAIL_LINES = 20  # arbitrary: what is shown of a child that failed


class Lifeline:
    """A pipe whose reading end children inherit; the kernel closes the writing end when this process dies."""

    def __init__(self) -> None:
        self.read_fd, self._write_fd = os.pipe()

    def close(self) -> None:
        """Cuts the line: children that still live end themselves. Safe to call twice."""
        for fd in (self.read_fd, self._write_fd):
            if fd >= 0:
                os.close(fd)
        self.read_fd = self._write_fd = -1


@dataclasses.dataclass(frozen=True, slots=True)
class ChildSpec:
    """What to run under which name; `environment` is the whole of it, apart from the lifeline."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]


class Child:
    """One run of a `ChildSpec`. `on_output(line)` gets standard output, `on_log(line)` standard error."""

    def __init__(self, process: asyncio.subprocess.Process, spec: ChildSpec) -> None:
        self.spec = spec
        self.tail: collections.deque[str] = collections.deque(maxlen=_TAIL_LINES)
        self._process = process

    @classmethod
    async def start(cls, spec: ChildSpec, lifeline: Lifeline) -> Child:
        """Starts the process; raises `OSError` if the program cannot be run."""
        process = await asyncio.create_subprocess_exec(
            *spec.argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**spec.environment, role_events.LIFELINE_VARIABLE: str(lifeline.read_fd)},
            pass_fds=(lifeline.read_fd,),
            start_new_session=True,
            limit=_LINE_LIMIT_BYTES,
        )
        return cls(process, spec)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def run(self, *, on_output: Callable[[str], None], on_log: Callable[[str], None]) -> int:
        """Reads both streams until the process ends; returns its exit status (negative: the signal's number)."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read(self._process.stdout, on_output, keep=False))
            group.create_task(self._read(self._process.stderr, on_log, keep=True))
        return await self._process.wait()

    async def _read(self, stream: asyncio.StreamReader, on_line: Callable[[str], None], *, keep: bool) -> None:
        while True:
            try:
                raw = await stream.readline()
            except ValueError:  # a line above the limit: asyncio drops what it has read of it
                on_line(f"(a line above {_LINE_LIMIT_BYTES} bytes was dropped)")
                continue
            if not raw:
                return
            line = raw.decode("utf-8", "replace").rstrip("\r\n")
            if keep:
                self.tail.append(line)
            on_line(line)

    def send_signal(self, number: signal.Signals) -> None:
        """Signals the process if it still runs."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def stop(self, *, grace_s: float) -> None:
        """SIGTERM, then SIGKILL to its whole session after `grace_s`; returns when the process is gone."""
        self.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_s):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()
