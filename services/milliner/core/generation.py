"""The whole-model port: what strategies ask of a model that runs whole on one tier, without a tensor in sight.

The cloud's `prefill` role and the device of P/D-Device, CloudOnly and DeviceOnly all generate through it. A session is
one sequence: known tokens are fed, then the model goes on by itself. Which token stands at a position depends on the
model, the parameters and the seed alone (`model.sampling`), so a sequence may change tiers at any token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from milliner.core import refinement as refinements
from milliner.core import types


@dataclasses.dataclass(frozen=True, slots=True)
class WholeModelInfo:
    """What a tier runs. Tiers may hand over to one another if `tokenizer_digest` agrees; with equal `model_digest` the
    answer stays the same."""

    model_digest: str
    tokenizer_digest: str
    num_layers: int
    vocab_size: int
    max_positions: int


@dataclasses.dataclass(frozen=True, slots=True)
class Sampler:
    """How a sequence picks its tokens, on whichever tier. `seed` is drawn for a request whose client sent none."""

    params: types.SamplingParams
    seed: int
    num_logprobs: int | None = None  # as in `GenerationRequest`


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One generated token, and what it took in the engine. None follows the `last` one of a run."""

    token: types.EmittedToken
    queue_s: float
    compute_s: float
    batched_tokens: int
    last: bool = False


class WholeSession(Protocol):
    """One sequence. Calls are made one after the other; `close` may come at any time."""

    @property
    def position(self) -> int:
        """Tokens fed so far: the position of the next."""
        ...

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompt that an earlier sequence had computed when the session was opened."""
        ...

    @property
    def kept(self) -> refinements.Spans | None:
        """What matters most of the prompt, where it was to be refined: from the first generated token on."""
        ...

    async def prefill(self, token_ids: Sequence[int]) -> int:
        """Feeds known tokens, in chunks, without asking what follows; returns how many of them were computed."""
        ...

    def generate(
        self,
        token_ids: Sequence[int],
        *,
        limit: int,
        stop_token_ids: frozenset[int] = frozenset(),
        left_out: int = 0,
    ) -> AsyncGenerator[Step, None]:
        """Feeds `token_ids` (at least one), then yields tokens of the model's own as they come: `limit` of them, or
        up to the first stop token, that one included. `left_out` tokens of the prompt were not fed: the noise of
        sampling is that of the positions in the whole one, which no token has had yet.

        Each but the last is fed as well. Closing the generator ends generating after the step that is running; the
        session is good for nothing but `close` then.
        """
        ...

    def set_limit(self, limit: int) -> None:
        """Moves the limit of the `generate` that runs; what was generated beyond it already still comes."""
        ...

    def extend(self, max_positions: int) -> None:
        """Claims room for `max_positions`; raises `core.errors.KVCacheFull` where there is none and leaves all as it
        is."""
        ...

    async def close(self) -> None:
        """Frees the session's memory; safe to call twice."""
        ...


class WholeModel(Protocol):
    """A model on one tier, shared by its sessions."""

    @property
    def info(self) -> WholeModelInfo: ...

    async def open(
        self,
        sampler: Sampler,
        *,
        max_positions: int,
        prompt_ids: Sequence[int] = (),
        salt: str = "",
        refinement: refinements.Refinement | None = None,
        claim: str = "",
    ) -> WholeSession:
        """A session with room for `max_positions` tokens; raises `core.errors.CapacityError`s as the engine does, to
        which the same `claim` may come again (`types.SessionOpen`).

        Where an earlier session of the same `salt` has computed the beginning of `prompt_ids`, that is not computed
        again when they are fed. With `refinement`, a model that can says which of `prompt_ids` matter most, in
        `WholeSession.kept`.
        """
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class GenerationOpen:
    """What a device asks a whole model in the cloud for: the tokens that follow a prompt, `max_tokens` of them.

    `session_id` is unguessable: it is the right to the session. `prompt_ids` cross the wire in clear. With `keep_share`
    below 1 the cloud also says which of the prompt's positions matter most: `ceil(keep_share · len(prompt_ids))` of
    them at most, those of `keep_spans` and the last one always (and nothing else where these alone are more).
    """

    session_id: str
    model_digest: str  # of the model that the device expects; "": any with this tokenizer
    tokenizer_digest: str
    prompt_ids: tuple[int, ...]
    max_tokens: int
    sampler: Sampler
    stop_token_ids: frozenset[int] = frozenset()
    traceparent: str = ""
    claim: str = ""  # as in `types.SessionOpen`
    salt: str = ""  # only sessions of equal salts share what they have computed
    keep_share: float = 1.0  # above 0; 1: the prompt is not refined
    keep_spans: refinements.Spans = ()  # [start, end) of the prompt; sorted, disjoint, not empty


@dataclasses.dataclass(frozen=True, slots=True)
class GenerationOpened:
    """The cloud's answer: it is admitted, and how loaded the replica is."""

    session_id: str
    model_digest: str
    load: types.LoadReport
    max_positions: int = 0  # most positions that any session may have on this replica; 0: it did not say
    cached_tokens: int = 0  # of the prompt, that an earlier session had computed


@dataclasses.dataclass(frozen=True, slots=True)
class CloudToken:
    """A token from the cloud; `index` counts from 0. `last` says that the cloud gives no more of itself.

    `kept` may come with index 0 where the prompt was to be refined: the [start, end) of it that matter most, sorted,
    disjoint, not empty. None: the cloud does not refine.
    """

    index: int
    step: Step
    last: bool
    kept: refinements.Spans | None = None


class TokenStream(Protocol):
    """One answer that comes from the cloud."""

    @property
    def opened(self) -> GenerationOpened: ...

    async def receive(self) -> CloudToken:
        """The next token, in order. Raises `core.errors.UnavailableError` when the stream is gone, or what the cloud
        refused it with; after the last token `ProtocolError`. Cancelling it loses nothing."""
        ...

    async def set_limit(self, max_tokens: int) -> None:
        """Moves the number of tokens that the cloud generates: fewer is STOP, more is EXTEND. What was generated
        beyond it already still comes; an EXTEND that the cloud has no room for changes nothing."""
        ...

    async def close(self) -> None:
        """Ends the session on both tiers; safe to call twice and after errors."""
        ...


class TokenTransport(Protocol):
    """Opens streams on whole models in the cloud; chooses the replica."""

    async def open(self, request: GenerationOpen) -> TokenStream: ...


class TokenService(Protocol):
    """The cloud's side of a token stream: what `wire` calls and the cloud role provides."""

    async def open(self, request: GenerationOpen) -> GenerationOpened:
        """Admits a session or raises an expected error."""
        ...

    def generate(self, session_id: str) -> AsyncGenerator[CloudToken, None]:
        """The session's tokens as they come; closing the generator ends generating."""
        ...

    async def set_limit(self, session_id: str, max_tokens: int) -> None: ...

    async def close(self, session_id: str) -> None:
        """Frees everything of a session; unknown ids are ignored."""
        ...
