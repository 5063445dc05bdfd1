"""Speculative rounds in one process, without link or scheduler: draft, verify, accept, roll back.

What `bench.acceptance` counts. The state kept between rounds is the device's (docs/algorithms.md): accepted drafts stay
in the adapter's cache as they were drafted, prompt positions have no deep state, and what the adapter has not seen it
catches up on with verified deep states. Synchronous; runs on the caller's thread.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from milliner.model import adapter as adapters
from milliner.model import drafter_target, kv_cache, ragged, sampling, slice

PAGE_TOKENS = 64  # arbitrary


@dataclasses.dataclass(frozen=True, slots=True)
class Round:
    """Drafts of one round, how many of them the target accepted, and the token that it put after them."""

    drafted: tuple[int, ...]
    num_accepted: int
    next_token: int

    @property
    def emitted(self) -> tuple[int, ...]:
        return (*self.drafted[: self.num_accepted], self.next_token)


class DraftRounds:
    """One sequence of tokens. `position` tokens are committed; the root, the last known token, is not among them."""

    def __init__(self, target: drafter_target.FrozenTarget, adapter: adapters.Adapter, *, max_tokens: int) -> None:
        self._target, self._adapter = target, adapter
        self._shallow_kv, self._cloud_kv, self._adapter_kv = (
            _one_session(spec, max_tokens=max_tokens, like=target.shallow)
            for spec in (target.shallow.kv_spec, target.cloud.kv_spec, adapter.kv_spec)
        )
        width = target.shallow.hidden_size
        self._hidden = torch.empty(0, width)  # [T, D] of committed positions
        self._deep = torch.empty(0, width)  # [T, D]
        self._num_prompt = 0

    @property
    def position(self) -> int:
        return len(self._hidden)

    @torch.no_grad()
    def prefill(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Commits the prompt; returns the target's logits [V] after it."""
        self.append(token_ids)
        self._num_prompt = self.position
        return self._target.logits(self._deep[-1:])[0]

    @torch.no_grad()
    def append(self, token_ids: Sequence[int]) -> None:
        """Commits tokens with their verified deep states, without drafting."""
        hidden = self._shallow(token_ids)
        self._commit(hidden, self._cloud(hidden))

    @torch.no_grad()
    def round(self, root: int, *, num_drafts: int, picker: sampling.Picker) -> Round:
        """Drafts from the root on, verifies, and commits the root and the accepted drafts."""
        start = self.position
        self._catch_up()
        deep = self._deep[-1:]
        drafted: list[int] = []
        hidden = [self._shallow([root])]
        for index in range(num_drafts):
            made = self._adapt(hidden[-1], deep=deep, known=None)
            deep = made.states
            scores = picker.scores(self._target.project(made.normed), [start + 1 + index])  # [1, V]
            token = int(scores.argmax())
            drafted.append(token)
            hidden.append(self._shallow([token]))
        joined = torch.cat(hidden)  # [K + 1, D]
        verified = self._cloud(joined)
        scores = picker.scores(self._target.logits(verified), range(start + 1, start + 2 + num_drafts))  # [K + 1, V]
        accepted = sampling.accept(scores, drafted)
        kept = accepted.num_accepted + 1
        self._roll_back(start + kept)
        self._commit(joined[:kept], verified[:kept])
        return Round(tuple(drafted), accepted.num_accepted, accepted.token_id)

    def return_to(self, position: int) -> None:
        """Forgets everything from `position` on."""
        self._roll_back(position)
        self._hidden, self._deep = self._hidden[:position], self._deep[:position]

    def _commit(self, hidden: torch.Tensor, deep: torch.Tensor) -> None:
        self._hidden = torch.cat([self._hidden, hidden])
        self._deep = torch.cat([self._deep, deep])

    def _roll_back(self, position: int) -> None:
        for session in (self._shallow_kv, self._cloud_kv, self._adapter_kv):
            session.truncate(min(position, session.kv_len))

    def _catch_up(self) -> None:
        """Shows the adapter the committed positions that it has not seen; position t goes with z of t - 1."""
        start, end = self._adapter_kv.kv_len, self.position
        if start == end:
            return
        before = torch.cat([torch.zeros_like(self._deep[:1]), self._deep])[start:end]
        known = torch.arange(start, end) >= max(1, self._num_prompt)
        self._adapt(self._hidden[start:end], deep=before, known=known)

    def _shallow(self, token_ids: Sequence[int]) -> torch.Tensor:
        target = self._target
        ids = torch.tensor(token_ids, device=target.torch_device)
        return target.shallow.forward(target.shallow.embed(ids), _batch(self._shallow_kv, len(token_ids)))

    def _cloud(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._target.cloud.forward(hidden, _batch(self._cloud_kv, len(hidden)))

    def _adapt(self, hidden: torch.Tensor, *, deep: torch.Tensor, known: torch.Tensor | None) -> adapters.Drafted:
        made: adapters.Drafted = self._adapter(
            hidden, _batch(self._adapter_kv, len(hidden)), deep=deep, deep_known=known
        )
        return made


def _one_session(spec: kv_cache.KVSpec, *, max_tokens: int, like: slice.ModelSlice) -> kv_cache.SequenceKV:
    return kv_cache.PagedKVCache(
        spec,
        num_pages=-(-max_tokens // PAGE_TOKENS),
        page_tokens=PAGE_TOKENS,
        dtype=like.dtype,
        torch_device=like.torch_device,
    ).open()


def _batch(session: kv_cache.SequenceKV, num_tokens: int) -> ragged.RaggedBatch:
    session.reserve(num_tokens)
    segment = ragged.Segment(session, session.kv_len, num_tokens)
    return ragged.RaggedBatch.build([segment], torch_device=session.cache.torch_device)
