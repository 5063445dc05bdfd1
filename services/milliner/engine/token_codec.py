"""Tokens in, tokens out, around a slice that holds a whole model: embedding on one side, the choice on the other.

Runs on the executor's thread, as the `decode` and `encode` of an engine's work.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from milliner.core import generation, types
from milliner.model import sampling
from milliner.model import slice as model_slice_module


class TokenCodec:
    """Implements `engine.whole_model.Codec` for a slice with embedding and lm_head."""

    def __init__(self, model_slice: model_slice_module.ModelSlice) -> None:
        self._slice = model_slice

    def embed(self, token_ids: Sequence[int]) -> torch.Tensor:
        """[T] ids -> [T, D]."""
        ids = torch.tensor(token_ids, dtype=torch.long, device=self._slice.torch_device)
        return self._slice.embed(ids)

    def chooser(self, sampler: generation.Sampler, *, origin: types.TokenOrigin) -> TokenChooser:
        """How one sequence picks its tokens."""
        return TokenChooser(sampler, origin=origin)


class TokenChooser:
    """Implements `engine.whole_model.Chooser`; one per sequence, as it keeps the noise of its positions."""

    def __init__(self, sampler: generation.Sampler, *, origin: types.TokenOrigin) -> None:
        self._num_logprobs = sampler.num_logprobs
        self._origin = origin
        self._picker = sampling.Picker(sampler.params, seed=sampler.seed)

    def choose(self, logits: torch.Tensor, *, position: int) -> types.EmittedToken:
        """[1, V] -> the token that stands at `position`; raises `ProtocolError` where the scores are not finite."""
        token_id = sampling.accept(self._picker.scores(logits, [position]), []).token_id
        self._picker.forget(position + 1)
        if self._num_logprobs is None:
            return types.EmittedToken(token_id, self._origin)
        logprob, top = sampling.logprobs(logits[0], token_id, self._num_logprobs)
        return types.EmittedToken(token_id, self._origin, logprob, top)
