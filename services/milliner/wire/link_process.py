"""An emulated link in a process of its own, for measurements: no other work on its loop, no torch beside its GIL.

`LinkProcess` stands where an `emulated_link.EmulatedLink` would. Its owner awaits `keep`: a process that ends by itself
is started again on the same port, so that its loss is to both ends what the loss of a network is.

The child is `python -m milliner.wire.link_process`. Line by line as JSON, it reads its configuration and then commands
on standard input, and writes its port and then counters on standard output. Each line bears the number of what it
answers: one that came too late for its asker is not taken for the next one's. The child ends when its standard input
does: when it is stopped, or when its parent dies in whatever way.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import signal
import sys
from typing import Any, NoReturn

from milliner.core import errors, time_slices
from milliner.wire import emulated_link

_START_WITHIN_S = 30.0  # arbitrary: an interpreter on a busy machine
_ANSWER_WITHIN_S = 5.0  # arbitrary
_STABLE_S = 5.0  # arbitrary: a process that ends sooner after a restart will end again
_COMMANDS = ("counters", "cut", "mend", "drop_connections")

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class LinkCounters:
    """What has entered the link until now, and how late it was at most."""

    bytes_up: int
    bytes_down: int
    max_lateness_s: float


class LinkProcess:
    """The link; `async with` starts and stops its process. Raises `UnavailableError` when that fails."""

    def __init__(self, upstream_host: str, upstream_port: int, conditions: emulated_link.LinkConditions) -> None:
        self._configuration = {
            "upstream_host": upstream_host,
            "upstream_port": upstream_port,
            "conditions": dataclasses.asdict(conditions),
        }
        self._process: asyncio.subprocess.Process | None = None
        self._asking = asyncio.Lock()
        self._asked = 0  # numbers questions, for all processes of this link
        self.port = 0

    async def counters(self) -> LinkCounters:
        """The child's counters."""
        return LinkCounters(**await self._ask({"command": "counters"}, within_s=_ANSWER_WITHIN_S))

    async def cut(self) -> None:
        """See `EmulatedLink.cut`."""
        await self._ask({"command": "cut"}, within_s=_ANSWER_WITHIN_S)

    async def mend(self) -> None:
        """See `EmulatedLink.mend`."""
        await self._ask({"command": "mend"}, within_s=_ANSWER_WITHIN_S)

    async def drop_connections(self) -> None:
        """See `EmulatedLink.drop_connections`."""
        await self._ask({"command": "drop_connections"}, within_s=_ANSWER_WITHIN_S)

    async def keep(self) -> NoReturn:
        """Starts the process again whenever it has ended; connections through it are lost, counters begin anew.

        Raises `UnavailableError` when it cannot be started again or ends right after that.
        """
        loop, restarted_s = asyncio.get_running_loop(), float("-inf")
        while True:
            assert self._process is not None, "keep is for a link that has been started"
            status = await self._process.wait()
            lived_s = loop.time() - restarted_s
            if lived_s < _STABLE_S:
                raise errors.UnavailableError(
                    f"the emulated link's process ended again {lived_s:.1f} s after a restart (status {status})",
                    field="link",
                )
            _log.warning("the emulated link's process ended (status %d); starting it again", status)
            await self._start()
            restarted_s = loop.time()

    async def __aenter__(self) -> LinkProcess:
        await self._start()
        return self

    async def _start(self) -> None:
        """Starts the process, on the port that an earlier one had."""
        pipe = asyncio.subprocess.PIPE
        command = (sys.executable, "-m", "milliner.wire.link_process")
        self._process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
        try:
            answer = await self._ask(self._configuration | {"port": self.port}, within_s=_START_WITHIN_S)
        except BaseException:
            await self.__aexit__()
            raise
        self.port = int(answer["port"])

    async def __aexit__(self, *_: object) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), _ANSWER_WITHIN_S)
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _ask(self, question: dict[str, Any], *, within_s: float) -> dict[str, Any]:
        process = self._process
        if process is None:
            raise errors.UnavailableError("the emulated link has not been started", field="link")
        assert process.stdin is not None
        assert process.stdout is not None
        async with self._asking:
            self._asked += 1
            number = self._asked
            # a child that is gone shows as an empty line
            with contextlib.suppress(TimeoutError, ConnectionError):
                async with asyncio.timeout(within_s):
                    process.stdin.write(json.dumps(question | {"number": number}).encode() + b"\n")
                    await process.stdin.drain()
                    while line := await process.stdout.readline():
                        answer: dict[str, Any] = json.loads(line)
                        if answer.pop("number") == number:  # else it answers a question that was given up
                            return answer
        raise errors.UnavailableError("the emulated link's process did not answer", field="link")


async def _serve() -> None:
    """The child: one link until standard input ends."""
    time_slices.for_event_loop()
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    if not (line := await lines.readline()):
        return  # the parent is gone already
    configuration = json.loads(line)
    conditions = emulated_link.LinkConditions(**configuration["conditions"])
    upstream = (configuration["upstream_host"], configuration["upstream_port"])
    async with emulated_link.EmulatedLink(*upstream, conditions, port=configuration["port"]) as link:
        _say({"port": link.port}, number=configuration["number"])
        while line := await lines.readline():
            question = json.loads(line)
            _say(_obey(question["command"], link), number=question["number"])


def _obey(command: str, link: emulated_link.EmulatedLink) -> dict[str, int | float]:
    assert command in _COMMANDS, command
    if command != "counters":
        getattr(link, command)()
    return {"bytes_up": link.bytes_up, "bytes_down": link.bytes_down, "max_lateness_s": link.max_lateness_s}


def _say(answer: dict[str, int | float], *, number: int) -> None:
    print(json.dumps(answer | {"number": number}), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends this process
    asyncio.run(_serve())
