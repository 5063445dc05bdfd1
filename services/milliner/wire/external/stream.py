"""One answer of an external engine, seen from the device: tokens in, limits out.

A limit is `max_tokens` of a request. Fewer than asked for (STOP) closes the connection, at which servers stop
computing; more (EXTEND), and the ids that a server kept to itself, are asked for by another request that begins where
this one ended, whose prompt servers have cached. The reader takes tokens as fast as the server gives them. Implements
`core.generation.TokenStream`; runs on the device's event loop.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable

from milliner.core import errors, generation, types
from milliner.wire.external import dialects, discovery, failures
from milliner.wire.external import server as servers

_PLAIN_TOKENS = 8  # asked for at a time where a stream keeps ids to itself: a character has 4 bytes at most; arbitrary


class ExternalStream:
    """See the module. `open` begins it."""

    def __init__(
        self,
        server: servers.HttpServer,
        found: discovery.Found,
        request: generation.GenerationOpen,
        *,
        vocab_size: int,
        on_end: Callable[[ExternalStream, Exception], None] = lambda *_: None,
    ) -> None:
        """`on_end` is called once with the reason, when nothing more will come."""
        self.opened = generation.GenerationOpened(
            session_id=request.session_id,
            model_digest="",  # nobody knows
            load=types.LoadReport(),
            max_positions=found.max_positions,
        )
        self._server = server
        self._found = found
        self._request = request
        self._vocab_size = vocab_size
        self._limit = request.max_tokens
        self._given: list[int] = []
        self._asked_to = 0  # tokens of the answer that the running request is for
        self._complete = False  # the last token has been put
        self._admitted = asyncio.Event()
        self._ended: Exception | None = None
        self._tokens: asyncio.Queue[generation.CloudToken | Exception] = asyncio.Queue()
        self._reading: asyncio.Task[None] | None = None
        self._on_end = on_end

    async def open(self) -> None:
        """Until the server has begun to answer. Raises why it does not; nothing is left behind then."""
        self._reading = asyncio.create_task(self._read(), name=f"answer of {self._server.where}")
        admitted = asyncio.create_task(self._admitted.wait())
        try:
            await asyncio.wait([self._reading, admitted], return_when=asyncio.FIRST_COMPLETED)
            if not self._admitted.is_set() and self._ended is not None:
                raise self._ended
        except BaseException:
            await self.close()
            raise
        finally:
            admitted.cancel()

    async def receive(self) -> generation.CloudToken:
        """See `core.generation.TokenStream.receive`; the reader's deadlines bound the wait."""
        if self._tokens.empty() and self._ended is not None:
            raise self._ended
        found = await self._tokens.get()
        if isinstance(found, Exception):
            raise found
        return found

    async def set_limit(self, max_tokens: int) -> None:
        """See `core.generation.TokenStream.set_limit`."""
        assert max_tokens >= 0
        most = self._found.max_positions
        if self._complete or (most and len(self._request.prompt_ids) + max_tokens > most):
            return
        if self._ended is not None:
            raise self._ended
        self._limit = max_tokens
        if max_tokens <= len(self._given):
            self._end(self._over())
            await self._stop_reading()

    async def close(self) -> None:
        """See `core.generation.TokenStream.close`."""
        self._end(errors.UnavailableError("the stream was closed on this side", field="session_id"))
        await self._stop_reading()

    async def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    def _end(self, error: Exception) -> None:
        if self._ended is None:
            self._ended = error
            self._tokens.put_nowait(error)
            self._on_end(self, error)

    def _over(self) -> errors.ProtocolError:
        return errors.ProtocolError(f"the server gave {len(self._given)} tokens and no more", field="token")

    # -- the reader ----------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        try:
            while not self._complete and len(self._given) < self._limit:
                before = len(self._given)
                if await self._stream_once():
                    await self._ask_once()
                if len(self._given) == before:
                    raise errors.ProtocolError(f"{self._server.where} answers without a token", field=failures.FIELD)
            self._end(self._over())
        except Exception as error:  # `receive` raises it: a bug of ours must not look like silence
            self._end(error)

    async def _stream_once(self) -> bool:
        """Takes what one request streams; whether it kept the ids of the next tokens to itself."""
        dialect, asked = self._found.dialect, self._asked(self._limit)
        reader = dialect.reader()
        headers = {"traceparent": self._request.traceparent} if self._request.traceparent else {}
        body = dialect.body(asked, stream=True)
        async with self._server.stream(
            dialect.path, body=body, below_root=dialect.below_root, headers=headers
        ) as events:
            self._admitted.set()
            async for event in events:
                piece = reader.read(event)
                if piece.missing:
                    return True
                if piece.token_ids:
                    events.progressed()
                self._take(piece)
                if piece.finish is not None or len(self._given) >= self._asked_to:
                    events.finished()
                    return False
                if self._complete:  # at a token that only the device knows as the last: the server would go on
                    return False
        raise errors.UnavailableError(
            f"{self._server.where} ended the answer after {len(self._given)} tokens", field=failures.FIELD
        )

    async def _ask_once(self) -> None:
        """Takes a few tokens at once, without a stream."""
        dialect, times = self._found.dialect, self._server.timeouts
        asked = self._asked(len(self._given) + _PLAIN_TOKENS)
        answer = await self._server.ask(
            "POST",
            dialect.path,
            body=dialect.body(asked, stream=False),
            below_root=dialect.below_root,
            within_s=times.busy_s,
        )
        if (error := failures.of_event(answer, where=self._server.where)) is not None:
            raise error
        piece = dialect.reader().read(answer)
        if piece.missing:
            raise errors.ProtocolError(f"{self._server.where} keeps token ids to itself", field=failures.FIELD)
        self._take(piece)

    def _asked(self, limit: int) -> dialects.Asked:
        """The request for what is still missing, up to `limit`. A seed is used once: noise of the first tokens must
        not come again."""
        request, given = self._request, len(self._given)
        self._asked_to = min(limit, self._limit)
        return dialects.Asked(
            model=self._found.model,
            token_ids=(*request.prompt_ids, *self._given),
            max_tokens=self._asked_to - given,
            sampler=dataclasses.replace(request.sampler, seed=(request.sampler.seed + given) & (2**63 - 1)),
            stop_token_ids=request.stop_token_ids,
            salt=request.salt,
            goes_on=given > 0,
        )

    def _take(self, piece: dialects.Piece) -> None:
        """Puts the tokens of a piece, up to the first stop token or the limit."""
        likelihoods = piece.likelihoods or (None,) * len(piece.token_ids)
        for token_id, likelihood in zip(piece.token_ids, likelihoods, strict=True):
            if token_id >= self._vocab_size:
                told = f"{self._server.where} gave token {token_id} of a vocabulary of {self._vocab_size}"
                raise errors.ProtocolError(told, field=failures.FIELD)
            self._put(token_id, likelihood)
            if self._complete:
                return
        if piece.finish is dialects.Finish.STOP:
            self._ends_by_itself()
        elif piece.finish is dialects.Finish.LENGTH and len(self._given) < self._asked_to:
            raise errors.UnavailableError(
                f"{self._server.where} cut the answer after {len(self._given)} of {self._limit} tokens",
                field=failures.FIELD,
            )

    def _ends_by_itself(self) -> None:
        """The server found the end of text: a stop token that it may have left out, or one that only it knows."""
        stops = self._request.stop_token_ids
        if not stops:
            raise errors.UnavailableError(
                f"{self._server.where} ended the answer at an end of text that was to be ignored", field=failures.FIELD
            )
        self._put(min(stops), None)

    def _put(self, token_id: int, likelihood: dialects.Likelihood | None) -> None:
        wanted = self._request.sampler.num_logprobs
        token = types.EmittedToken(
            token_id,
            types.TokenOrigin.CLOUD,
            logprob=likelihood.logprob if likelihood is not None and wanted is not None else None,
            top_logprobs=likelihood.top[:wanted] if likelihood is not None and wanted else (),
        )
        index = len(self._given)
        self._given.append(token_id)
        self._complete = token_id in self._request.stop_token_ids or len(self._given) >= self._limit
        # nobody says how long the engine computed: all of the wait counts as the network's
        step = generation.Step(token, queue_s=0.0, compute_s=0.0, batched_tokens=1, last=self._complete)
        self._tokens.put_nowait(generation.CloudToken(index, step, last=self._complete))
