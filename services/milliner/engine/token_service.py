"""The cloud's whole model behind `core.generation.TokenService`: one session per stream, at most its limit of tokens.

A session frees its place and its KV cache with its last token. Its limit may be moved while it runs: down ends it
after the step that is running, up goes on, where the engine has the room and the time (`cloud_seconds`) for more. Event
loop only, torch-free.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncGenerator, Callable

from milliner.core import errors, generation, refinement, types
from milliner.engine import cloud_seconds


@dataclasses.dataclass(slots=True)
class _Session:
    """One sequence; `limit` is how many tokens it may give, for which it has been promised room and time."""

    request: generation.GenerationOpen
    whole: generation.WholeSession
    limit: int
    num_generated: int = 0


class EngineTokenService:
    """See the module. `model` computes; `load` says how busy it is; `seconds` how much may be promised, if limited."""

    def __init__(
        self,
        model: generation.WholeModel,
        *,
        load: Callable[[], types.LoadReport],
        max_positions: Callable[[], int],
        seconds: cloud_seconds.CloudSeconds | None = None,
    ) -> None:
        self._seconds = seconds
        self._model = model
        self._load = load
        self._max_positions = max_positions
        self._sessions: dict[str, _Session] = {}

    async def open(self, request: generation.GenerationOpen) -> generation.GenerationOpened:
        """See `core.generation.TokenService.open`.

        Raises `DigestMismatch`, `InputError` for what no model can generate from, `ForeignSession`, and what the
        engine refuses it with.
        """
        info = self._model.info
        _check(request, info)
        if request.session_id in self._sessions:
            raise errors.ForeignSession("a session of this id is open: choose an unguessable one", field="session_id")
        needed = len(request.prompt_ids) + request.max_tokens
        if needed > info.max_positions:
            raise errors.PromptTooLong(
                f"prompt ({len(request.prompt_ids)} tokens) and answer ({request.max_tokens}) exceed the context of "
                f"{info.max_positions}: shorten the prompt or ask for fewer tokens",
                field="max_tokens",
            )
        self._promise(request.session_id, request.max_tokens)
        try:
            whole = await self._model.open(
                request.sampler,
                max_positions=needed,
                prompt_ids=request.prompt_ids,
                salt=request.salt,
                refinement=_refinement(request),
                claim=request.claim,
            )
        except BaseException:
            self._release(request.session_id)
            raise
        self._sessions[request.session_id] = _Session(request, whole, limit=request.max_tokens)
        return generation.GenerationOpened(
            session_id=request.session_id,
            model_digest=info.model_digest,
            load=self._load(),
            max_positions=self._max_positions(),
            cached_tokens=whole.cached_tokens,
        )

    async def generate(self, session_id: str) -> AsyncGenerator[generation.CloudToken, None]:
        """See `core.generation.TokenService.generate`."""
        session = self._session(session_id)
        request = session.request
        try:
            steps = session.whole.generate(
                request.prompt_ids, limit=max(1, session.limit), stop_token_ids=request.stop_token_ids
            )
            async with contextlib.aclosing(steps):
                async for step in steps:
                    index = session.num_generated
                    session.num_generated += 1
                    if self._seconds is not None:
                        self._seconds.generated(session_id)
                    kept = session.whole.kept if index == 0 else None
                    yield generation.CloudToken(index=index, step=step, last=step.last, kept=kept)
        finally:
            await self.close(session_id)

    async def set_limit(self, session_id: str, max_tokens: int) -> None:
        """See `core.generation.TokenStream.set_limit`."""
        session = self._sessions.get(session_id)
        if session is None:  # it may just have ended by itself
            return
        if max_tokens > session.limit and not self._has_room(session_id, session, max_tokens):
            return
        session.limit = max_tokens
        session.whole.set_limit(max_tokens)
        if self._seconds is not None:
            self._seconds.book(session_id, max_tokens - session.num_generated)

    def _has_room(self, session_id: str, session: _Session, max_tokens: int) -> bool:
        """Whether there are time and room for `max_tokens`; of the latter the session has so much then."""
        needed = len(session.request.prompt_ids) + max_tokens
        if needed > self._model.info.max_positions:
            return False
        try:
            if self._seconds is not None:
                self._seconds.check(session_id, max_tokens - session.num_generated)
            session.whole.extend(needed)
        except errors.CapacityError:
            return False
        return True

    async def close(self, session_id: str) -> None:
        """See `core.generation.TokenService.close`."""
        session = self._sessions.pop(session_id, None)
        if session is not None:
            self._release(session_id)
            await session.whole.close()

    def _promise(self, session_id: str, num_tokens: int) -> None:
        if self._seconds is not None:
            self._seconds.check(session_id, num_tokens)
            self._seconds.book(session_id, num_tokens)

    def _release(self, session_id: str) -> None:
        if self._seconds is not None:
            self._seconds.release(session_id)

    def _session(self, session_id: str) -> _Session:
        session = self._sessions.get(session_id)
        if session is None:
            raise errors.UnknownSession("there is no such session: open one", field="session_id")
        return session


def _refinement(request: generation.GenerationOpen) -> refinement.Refinement | None:
    return refinement.Refinement(request.keep_share, request.keep_spans) if request.keep_share < 1.0 else None


def _check(request: generation.GenerationOpen, info: generation.WholeModelInfo) -> None:
    if request.model_digest and request.model_digest != info.model_digest:
        raise errors.DigestMismatch(
            f"the device expects a model with digest {request.model_digest}, this replica runs {info.model_digest}: "
            "give both tiers the same files",
            field="model_digest",
        )
    if request.tokenizer_digest != info.tokenizer_digest:
        raise errors.DigestMismatch(
            f"the device's tokenizer has digest {request.tokenizer_digest}, this replica's {info.tokenizer_digest}: "
            "token ids would mean other text; use models with the same tokenizer",
            field="tokenizer_digest",
        )
    if not request.prompt_ids:
        raise errors.InputError("the prompt has no tokens: send at least one", field="prompt_ids")
    if request.max_tokens < 1:
        raise errors.InputError(f"found {request.max_tokens}, use at least 1", field="max_tokens")
    outside = next((token for token in request.prompt_ids if not 0 <= token < info.vocab_size), None)
    if outside is not None:
        raise errors.InputError(f"token {outside} is outside the vocabulary of {info.vocab_size}", field="prompt_ids")
