"""The frozen target in drafter training: what a drafter sees and what it should predict, for whole windows of text.

It runs the same slices that serve, so every family that can be served can be trained for, with the same arithmetic.
Called by `drafter_training` and benches, on one thread.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from milliner.core import errors
from milliner.model import checkpoint as checkpoints
from milliner.model import kv_cache, ragged, slice

PAGE_TOKENS = 64  # arbitrary; caches here live for one window


@dataclasses.dataclass(frozen=True, slots=True)
class Features:
    """Of windows of B × T tokens: layer-s hidden states and deep states (before the final norm), both [B, T, D]."""

    hidden: torch.Tensor
    deep: torch.Tensor


class FrozenTarget:
    """A checkpoint cut at layer s, without gradients."""

    def __init__(self, path: Path, *, split_layer: int, dtype: torch.dtype, torch_device: torch.device) -> None:
        self.checkpoint = checkpoints.Checkpoint.open(path)
        layers = self.checkpoint.num_layers
        if not 1 <= split_layer < layers:
            raise errors.SplitOutsideModel(
                f"is {split_layer} and the model has {layers} layers: use 1 to {layers - 1}", field="--split-layer"
            )
        self.torch_device = torch_device
        self.shallow = slice.load_slice(
            self.checkpoint,
            slice.SliceSpec(0, split_layer, embedding=True, lm_head=True),
            dtype=dtype,
            torch_device=torch_device,
        )
        self.cloud = slice.load_slice(
            self.checkpoint,
            slice.SliceSpec(split_layer, layers, embedding=False, lm_head=False),
            dtype=dtype,
            torch_device=torch_device,
        )
        self._caches: dict[tuple[int, int], tuple[kv_cache.PagedKVCache, kv_cache.PagedKVCache]] = {}

    @property
    def max_positions(self) -> int:
        return self.checkpoint.max_positions

    @torch.no_grad()
    def features(self, token_ids: torch.Tensor) -> Features:
        """Both kinds of hidden states of [B, T] token ids, every window from position 0."""
        batch, length = token_ids.shape
        shallow_cache, cloud_cache = self._cache(batch, length)
        hidden = self.shallow.embed(token_ids.reshape(-1).to(self.torch_device))  # [B * T, D]
        hidden = _through(self.shallow, shallow_cache, hidden, batch=batch)
        deep = _through(self.cloud, cloud_cache, hidden, batch=batch)
        width = hidden.shape[-1]
        return Features(hidden.view(batch, length, width).float(), deep.view(batch, length, width).float())

    @torch.no_grad()
    def logits(self, deep: torch.Tensor) -> torch.Tensor:
        """The target's logits [N, V] float32 from deep states [N, D]."""
        return self.shallow.logits(deep)

    def project(self, normed: torch.Tensor) -> torch.Tensor:
        """lm_head over normed states [N, D]; gradients pass through to the states."""
        return self.shallow.project(normed)

    @torch.no_grad()
    def final_norm(self, deep: torch.Tensor) -> torch.Tensor:
        """The target's final norm."""
        assert self.shallow.norm is not None
        normed: torch.Tensor = self.shallow.norm(deep)
        return normed

    def _cache(self, batch: int, length: int) -> tuple[kv_cache.PagedKVCache, kv_cache.PagedKVCache]:
        key = (batch, length)
        if key not in self._caches:
            self._caches.clear()
            pages = batch * -(-length // PAGE_TOKENS)
            self._caches[key] = tuple(  # type: ignore[assignment]
                kv_cache.PagedKVCache(
                    part.kv_spec,
                    num_pages=pages,
                    page_tokens=PAGE_TOKENS,
                    dtype=part.dtype,
                    torch_device=self.torch_device,
                )
                for part in (self.shallow, self.cloud)
            )
        return self._caches[key]


def _through(part: slice.ModelSlice, cache: kv_cache.PagedKVCache, hidden: torch.Tensor, *, batch: int) -> torch.Tensor:
    """A slice over B windows of equal length, each its own session."""
    length = hidden.shape[0] // batch
    sessions = [cache.open() for _ in range(batch)]
    try:
        for session in sessions:
            session.reserve(length)
        segments = [ragged.Segment(session, 0, length) for session in sessions]
        return part.forward(hidden, ragged.RaggedBatch.build(segments, torch_device=part.torch_device))
    finally:
        for session in sessions:
            session.close()
