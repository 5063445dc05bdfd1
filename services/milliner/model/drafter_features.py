"""Where training's batches come from: the target reads fresh windows every step, or once and for all into a file.

A target costs more to run than a drafter to train. With a cache its hidden states are computed once, in bfloat16, and
windows of them are drawn many times; several drafters of one model, split and text can share the file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import torch

from milliner.core import errors
from milliner.model import drafter_target, drafter_text

CACHE_BATCH_TOKENS = 4096  # how much the target reads at once (arbitrary)
LONG_SHARE = 0.15  # of a cache's tokens are in long windows, where those are asked for (arbitrary)


class FeatureSource(Protocol):
    """Batches of features, decided by seed and step alone."""

    def batch(self, *, count: int, length: int, seed: int, step: int) -> drafter_target.Features: ...


@dataclasses.dataclass(frozen=True, slots=True)
class FreshFeatures:
    """The target reads new windows for every batch."""

    text: drafter_text.TrainingText
    target: drafter_target.FrozenTarget

    def batch(self, *, count: int, length: int, seed: int, step: int) -> drafter_target.Features:
        return self.target.features(self.text.batch(count=count, length=length, seed=seed, step=step))


@dataclasses.dataclass(frozen=True, slots=True)
class CachedFeatures:
    """Windows of each length, [W, T, D] in bfloat16, hidden and deep states."""

    windows: Mapping[int, tuple[torch.Tensor, torch.Tensor]]
    torch_device: torch.device

    def batch(self, *, count: int, length: int, seed: int, step: int) -> drafter_target.Features:
        hidden, deep = self.windows[length]
        generator = torch.Generator().manual_seed(seed * 7_368_787 + step)
        rows = torch.randint(0, len(hidden), (count,), generator=generator)
        return drafter_target.Features(
            hidden[rows].to(self.torch_device, torch.float32), deep[rows].to(self.torch_device, torch.float32)
        )


def cached(
    path: Path,
    fresh: FreshFeatures,
    *,
    lengths: tuple[int, ...],
    num_tokens: int,
    identity: Mapping[str, str],
    advance: Callable[[float], None] = lambda share: None,
) -> CachedFeatures:
    """The features in `path`; computes and writes them if there is no such file.

    Raises `ConfigError` where the file is of another model, split or text, or lacks a window length.
    """
    if not path.is_file():
        windows = {}
        for length in lengths:
            share = 1.0 if len(lengths) == 1 else (LONG_SHARE if length == max(lengths) else 1.0 - LONG_SHARE)
            windows[length] = _read(fresh, length, max(1, int(num_tokens * share) // length), advance)
        torch.save({"identity": dict(identity), "windows": windows}, path)
    content = torch.load(path, weights_only=True, mmap=True)
    for option, value in identity.items():
        if content["identity"].get(option) != value:
            raise errors.ConfigError(
                f"{path} was made with another {option}: name another file or delete it", field="--feature-cache"
            )
    missing = [length for length in lengths if length not in content["windows"]]
    if missing:
        raise errors.ConfigError(
            f"{path} has no windows of {missing[0]} tokens: name another file or delete it", field="--feature-cache"
        )
    return CachedFeatures(content["windows"], fresh.target.torch_device)


def _read(
    fresh: FreshFeatures, length: int, count: int, advance: Callable[[float], None]
) -> tuple[torch.Tensor, torch.Tensor]:
    width = fresh.target.shallow.hidden_size
    hidden = torch.empty(count, length, width, dtype=torch.bfloat16)
    deep = torch.empty_like(hidden)
    at_once = max(1, CACHE_BATCH_TOKENS // length)
    for first in range(0, count, at_once):
        rows = min(at_once, count - first)
        features = fresh.batch(count=rows, length=length, seed=length, step=first)
        hidden[first : first + rows], deep[first : first + rows] = features.hidden, features.deep
        advance((first + rows) / count)
    return hidden, deep
