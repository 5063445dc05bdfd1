"""The device's compute port: what strategies ask of the submodels on a device, without a tensor in sight.

A `DeviceSession` owns one request's KV caches on the device and a **draft tree** over them. Node ids are handed out
by the session; the root is the last known token, whose position is the first that is in nobody's KV cache. The
simulator implements the same two protocols with modelled durations and acceptance drawn from a seed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from milliner.core import types


class BatchCost(Protocol):
    """Modelled duration of an engine's batch, in seconds."""

    def batch_s(self, num_tokens: int, *, num_steps: int) -> float:
        """`num_tokens` in all, `num_steps` of them verifications or generated tokens' passes."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class ComputeCost:
    """Modelled duration of one call: `fixed_s` + `per_token_s` · tokens (seconds)."""

    fixed_s: float
    per_token_s: float = 0.0

    def duration_s(self, num_tokens: int) -> float:
        return self.fixed_s + self.per_token_s * num_tokens

    def batch_s(self, num_tokens: int, *, num_steps: int) -> float:
        """See `BatchCost`: all tokens cost alike."""
        return self.duration_s(num_tokens)


@dataclasses.dataclass(frozen=True, slots=True)
class GenerationCost:
    """Modelled durations of a device that is bound by its memory when it generates: a pass takes `step_s` at least,
    prompt tokens `prompt_token_s` each."""

    prompt_token_s: float
    step_s: float

    def batch_s(self, num_tokens: int, *, num_steps: int) -> float:
        """See `BatchCost`: however many sequences go on, the weights are read once."""
        prompt_s = self.prompt_token_s * (num_tokens - num_steps)
        return self.step_s + prompt_s if num_steps else max(self.step_s, prompt_s)


@dataclasses.dataclass(frozen=True, slots=True)
class DeviceInfo:
    """What a device holds. The cloud's slice is [split_layer, num_layers − tail_layers)."""

    model_digest: str
    num_layers: int
    split_layer: int
    tail_layers: int
    hidden_size: int
    vocab_size: int
    max_positions: int
    drafts: bool  # an adapter is loaded
    num_medusa_heads: int

    @property
    def cloud_slice_end(self) -> int:
        return self.num_layers - self.tail_layers


@dataclasses.dataclass(frozen=True, slots=True)
class WireFormat:
    """Which codec each position is written with: `prompt` below `exact_from`, `decode` from there on."""

    prompt: types.Codec
    decode: types.Codec
    exact_from: int

    def codec_at(self, position: int) -> types.Codec:
        return self.prompt if position < self.exact_from else self.decode


@dataclasses.dataclass(frozen=True, slots=True)
class Outgoing:
    """Hidden states ready to send, and what it took: `forward_s` in layers, `pack_s` in the codec.

    `num_computed` prompt positions went through the shallow layers for it; the others had before.
    """

    payloads: tuple[types.Payload, ...]
    num_tokens: int
    forward_s: float
    pack_s: float
    num_computed: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Expansion:
    """The drafter's view of what follows a node.

    `drafted` is the token to draft next, the first of `candidates`: the likeliest tokens, best first, each with its
    share of what the drafter expects *there*; in sampling it knows the noise that the target's choice will use.
    `confidence` is the first one's share. Decisions may depend on all of it: the answer does not depend on the drafts.
    """

    node: int
    drafted: int
    confidence: float
    candidates: tuple[tuple[int, float], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of one verification: drafts accepted, the token that follows them, both with log-probabilities."""

    num_accepted: int
    emitted: tuple[types.EmittedToken, ...]  # the accepted drafts and the token after them
    decode_s: float  # reading the payload
    head_s: float  # tail layers, norm, lm_head and the acceptance rule


class DeviceSession(Protocol):
    """One request on the device; each call awaits the device's executor.

    Calls are made one after the other, but for `repack`: while a replica is lost, drafting may go on, so it comes
    during `expand`, `prepare` or `propose`, whose outcome it neither sees nor changes. `commit` is never made then.
    """

    @property
    def position(self) -> int:
        """The root's position: the number of tokens before it, all of them committed."""
        ...

    @property
    def root(self) -> int: ...

    async def forward_prompt(self, start: int, token_ids: Sequence[int]) -> Outgoing:
        """Packs prompt positions from `start`, running the shallow layers over those that they have not seen.

        Positions that an earlier call has computed, even one whose wait was cancelled, are not computed again.
        """
        ...

    async def forward_drafter(self) -> float:
        """Lets the drafter see the prompt positions that it has not seen; returns seconds spent."""
        ...

    async def absorb(self, reply: types.HiddenReply) -> float:
        """Takes deep states of prompt positions that tail layers need; returns seconds spent."""
        ...

    async def choose_first(self, reply: types.HiddenReply) -> Verdict:
        """Picks the answer's first token from the prompt's last deep state; it becomes the root."""
        ...

    def child(self, node: int, token_id: int) -> int:
        """The node for `token_id` after `node`; made if it is not there."""
        ...

    def expansion(self, node: int) -> Expansion | None:
        """What `expand` or `propose` said of this node, if it has been expanded."""
        ...

    def has_hidden(self, node: int) -> bool:
        """Whether the shallow layers have seen the node, so that it can be packed at no cost."""
        ...

    async def expand(self, nodes: Sequence[int]) -> tuple[tuple[Expansion, ...], float]:
        """One draft step over all `nodes` as a batch (shallow layers where missing, adapter, lm_head).

        Raises `core.errors.KVCacheFull` when the tree is as large as it may become; what is there can still be packed.
        """
        ...

    async def prepare(self, nodes: Sequence[int]) -> float:
        """Shallow layers over `nodes` as a batch, without drafting; returns seconds spent. Raises as `expand` does."""
        ...

    async def propose(self) -> tuple[tuple[int, ...], float]:
        """Medusa heads on the last deep state: a chain of nodes below the root, and seconds spent."""
        ...

    async def pack(self, path: Sequence[int]) -> Outgoing:
        """Packs the hidden states of root … leaf, running the shallow layers where they are missing."""
        ...

    async def verify(self, path: Sequence[int], reply: types.HiddenReply) -> Verdict:
        """Accepts the longest prefix of the path's drafts that the target agrees with, and picks what follows."""
        ...

    def commit(self, path: Sequence[int], verdict: Verdict) -> bool:
        """Makes accepted nodes part of the history and the new token the root; True if its subtree was kept."""
        ...

    async def repack(self, start: int, end: int) -> Outgoing:
        """Packs committed positions [start, end) again for a new cloud session; may come during other calls."""
        ...

    async def close(self) -> None:
        """Frees the session's memory; safe to call twice."""
        ...


class DeviceCompute(Protocol):
    """A device's submodels, shared by its sessions."""

    @property
    def info(self) -> DeviceInfo: ...

    def bytes_per_position(self, codec: types.Codec) -> float:
        """Payload bytes that one position takes on the wire."""
        ...

    async def open(self, request: types.GenerationRequest, wire: WireFormat) -> DeviceSession:
        """Opens a session with room on the device for the whole prompt and answer, waiting for it where others have it.

        Raises `core.errors.KVCacheFull` when none came free in time.
        """
        ...
