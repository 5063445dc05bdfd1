"""Opens answers of an external engine; knows whether it can be reached, and looks again at what it is after trouble.

Stands where `wire.client.GrpcTokenTransport` stands for replicas of our own, and answers readiness as it does.
Implements `core.generation.TokenTransport`. Runs on the device's event loop.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable

from milliner.contract import role_config
from milliner.core import errors, generation
from milliner.wire.external import discovery, failures, stream
from milliner.wire.external import server as servers

_UNSALTED = "unsalted"  # a salt for those who name none, where a server cannot keep apart those who do
_log = logging.getLogger(__name__)


class ExternalTransport:
    """See the module. `on_trouble` is called when an answer breaks off or cannot be opened."""

    def __init__(
        self,
        config: role_config.ExternalServer,
        *,
        tokenizer: discovery.Tokenizer,
        timeouts: servers.Timeouts = servers.DEFAULT_TIMEOUTS,
        route: servers.Route | None = None,
    ) -> None:
        """Raises `ConfigError` for an address or a key that cannot be used."""
        self.on_trouble: Callable[[], None] = lambda: None
        self._server = servers.HttpServer(config, timeouts=timeouts, route=route)
        self._wanted = config.model
        self._tokenizer = tokenizer
        self._found: discovery.Found | None = None
        self._finding = asyncio.Lock()
        self._salted = False  # whether any request had a salt
        self._streams: set[stream.ExternalStream] = set()

    @property
    def max_positions(self) -> int:
        """Most tokens of prompt and answer there; 0: unknown."""
        return self._found.max_positions if self._found is not None else 0

    async def find(self) -> discovery.Found:
        """What the server is, asked when nobody knows. Raises as `discovery.discover` does."""
        async with self._finding:
            if self._found is None:
                self._found = await discovery.discover(self._server, wanted=self._wanted, tokenizer=self._tokenizer)
                _log.info("%s serves %s, asked by %s", self._server.where, self._found.model, self._found.dialect.name)
            return self._found

    async def why_unreachable(self) -> str:
        """Why no answer could be opened now, or ""."""
        try:
            if (found := self._found) is None:
                await self.find()
            elif await self._listed(found.model) != found.listed:
                self._found = None  # it was started again, perhaps with other weights
                await self.find()
        except errors.CapacityError:
            return ""  # it serves somebody
        except errors.MillinerError as error:
            self._found = None
            return str(error)
        return ""

    async def _listed(self, model: str) -> discovery.Listed:
        return discovery.choose(await self._server.look(), wanted=model, where=self._server.where)

    async def open(self, request: generation.GenerationOpen) -> stream.ExternalStream:
        """An answer that has begun. Raises what the server refuses it with, `PromptTooLong` before it is asked."""
        found = await self.find()
        self._check_room(request, found.max_positions)
        self._salted |= bool(request.salt)
        if self._salted and not found.dialect.keeps_apart:
            request = dataclasses.replace(request, salt=request.salt or _UNSALTED)
        opened = stream.ExternalStream(
            self._server, found, request, vocab_size=self._tokenizer.vocab_size, on_end=self._ended
        )
        self._streams.add(opened)
        await opened.open()
        return opened

    async def close(self) -> None:
        """Ends open answers and closes all connections."""
        await asyncio.gather(*(opened.close() for opened in list(self._streams)))
        await self._server.close()

    def _check_room(self, request: generation.GenerationOpen, most: int) -> None:
        prompt_tokens = len(request.prompt_ids)
        if not most or prompt_tokens + request.max_tokens <= most:
            return
        room = most - prompt_tokens
        raise errors.PromptTooLong(
            f"{prompt_tokens} tokens of prompt and {request.max_tokens} of answer exceed the {most} that "
            f"{self._server.where} holds: " + (f"ask for at most {room} tokens" if room > 0 else "shorten the prompt"),
            field="max_tokens" if room > 0 else "prompt",
        )

    def _ended(self, ended: stream.ExternalStream, error: Exception) -> None:
        self._streams.discard(ended)
        if not isinstance(error, errors.MillinerError) or isinstance(error, errors.CapacityError):
            return
        if error.field.startswith(failures.FIELD):
            self._found = None  # it may be another server by now
            self.on_trouble()
