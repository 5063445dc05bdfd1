"""A token service without a model, for tests of the wire: token i of a session is its first prompt token plus i."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from milliner.core import errors, generation, types

DIGEST = "sha256:" + "1" * 64
MAX_POSITIONS = 200_000
SAMPLER = generation.Sampler(types.SamplingParams(), seed=7)


class ToyTokens:
    """Generates at once, or when `gate` opens; remembers what it saw, fails on demand."""

    def __init__(self, *, step_s: float = 0.0) -> None:
        self.step_s = step_s
        self.requests: dict[str, generation.GenerationOpen] = {}
        self.limits: dict[str, int] = {}
        self.given: dict[str, int] = {}  # tokens that were asked for, by session
        self.ended: list[str] = []  # generators that have ended, however
        self.closed: list[str] = []
        self.kept: tuple[tuple[int, int], ...] | None = None  # of the first token
        self.names_last = True  # False: as when a limit falls below what was given
        self.close_s = 0.0
        self.refuse_open: Exception | None = None
        self.fail_at: dict[int, Exception] = {}  # by index
        self.refuse_limit: Exception | None = None
        self.gate = asyncio.Event()  # cleared: tokens wait
        self.gate.set()

    async def open(self, request: generation.GenerationOpen) -> generation.GenerationOpened:
        if self.refuse_open is not None:
            raise self.refuse_open
        if request.model_digest not in ("", DIGEST):
            raise errors.DigestMismatch(f"the cloud serves {DIGEST}", field="model_digest")
        self.requests[request.session_id] = request
        self.limits[request.session_id] = request.max_tokens
        return generation.GenerationOpened(request.session_id, DIGEST, types.LoadReport(), max_positions=MAX_POSITIONS)

    async def generate(self, session_id: str) -> AsyncGenerator[generation.CloudToken, None]:
        first, index = self.requests[session_id].prompt_ids[0], 0
        try:
            while index < self.limits[session_id]:
                self.given[session_id] = index + 1
                await self.gate.wait()
                await asyncio.sleep(self.step_s)
                if index in self.fail_at:
                    raise self.fail_at[index]
                last = self.names_last and index + 1 >= self.limits[session_id]
                kept = self.kept if index == 0 else None
                yield generation.CloudToken(index, step(first + index), last=last, kept=kept)
                index += 1
        finally:
            self.ended.append(session_id)

    async def set_limit(self, session_id: str, max_tokens: int) -> None:
        if self.refuse_limit is not None:
            raise self.refuse_limit
        self.limits[session_id] = max_tokens

    async def close(self, session_id: str) -> None:
        await asyncio.sleep(self.close_s)
        self.closed.append(session_id)


def step(token_id: int) -> generation.Step:
    """What the toy says of a token."""
    token = types.EmittedToken(token_id, types.TokenOrigin.CLOUD)
    return generation.Step(token, queue_s=0.001, compute_s=0.002, batched_tokens=3)


def token_open(
    session_id: str = "s1", *, max_tokens: int = 5, prompt: tuple[int, ...] = (100, 5, 6)
) -> generation.GenerationOpen:
    """An Open that the toy accepts."""
    return generation.GenerationOpen(
        session_id=session_id,
        model_digest=DIGEST,
        tokenizer_digest="",
        prompt_ids=prompt,
        max_tokens=max_tokens,
        sampler=SAMPLER,
    )


async def the_rest(stream: generation.TokenStream) -> list[int]:
    """The token ids up to the last."""
    token = await stream.receive()
    found = [token.step.token.token_id]
    while not token.last:
        token = await stream.receive()
        found.append(token.step.token.token_id)
    return found


async def follow(stream: generation.TokenStream, tokens: list[generation.CloudToken]) -> None:
    """Receives into `tokens` until the stream raises why it has ended."""
    while True:
        tokens.append(await stream.receive())
