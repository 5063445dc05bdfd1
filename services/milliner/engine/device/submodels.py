"""The modules that a device holds, and the figures that follow from them. Shared by all of the device's sessions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from milliner.core import compute, types
from milliner.model import adapter, kv_cache, medusa, slice


@dataclasses.dataclass(frozen=True, slots=True)
class Submodels:
    """Input submodel (`shallow`, with embedding, norm and lm_head), output submodel's layers (`tail`), drafters."""

    shallow: slice.ModelSlice
    tail: slice.ModelSlice | None
    drafter: adapter.Adapter | None
    medusa: medusa.MedusaHeads | None
    info: compute.DeviceInfo


@dataclasses.dataclass(frozen=True, slots=True)
class DeviceCaches:
    """The KV caches behind a device's sessions."""

    shallow: kv_cache.PagedKVCache
    tail: kv_cache.PagedKVCache | None
    drafter: kv_cache.PagedKVCache | None


@dataclasses.dataclass(frozen=True, slots=True)
class Codecs:
    """The wire's codecs, handed in because engine and wire do not import one another."""

    encode: Callable[[torch.Tensor, types.Codec], types.Payload]
    decode: Callable[[types.Payload, int, torch.dtype], torch.Tensor]
    bytes_per_position: Callable[[types.Codec, int], float]
