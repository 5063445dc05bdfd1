"""Paged KV cache of one slice (or adapter) and the page tables of its sessions.

Keys and values of layer i are one tensor each, `[pages, page_tokens, Hkv, Dh]`. A session's `SequenceKV` maps its
slots (token places, 0 … kv_len-1) to pages; truncating it is moving `kv_len` back, which is what rollback costs.
Everything here runs on the accelerator's executor thread. Attention reads through `ragged`, never through this file.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import torch

from milliner.core import errors
from milliner.model import pages


@dataclasses.dataclass(frozen=True, slots=True)
class LayerKV:
    """What one layer caches per token; `sliding_window` tokens (itself included) are visible, None: all."""

    num_kv_heads: int
    head_dim: int
    sliding_window: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class KVSpec:
    """What consecutive layers cache; `first_layer` is the model's index of `layers[0]`."""

    first_layer: int
    layers: tuple[LayerKV, ...]


class PagedKVCache:
    """Keys and values of all sessions of one slice, in pages of `page_tokens` tokens, within a fixed budget."""

    def __init__(
        self,
        spec: KVSpec,
        *,
        num_pages: int,
        page_tokens: int = 64,
        dtype: torch.dtype,
        torch_device: torch.device,
        pinned: bool = False,  # host memory that a GPU reads and writes by itself
    ) -> None:
        self.spec = spec
        self.num_pages = num_pages
        self.page_tokens = page_tokens
        self.dtype = dtype
        self.torch_device = torch_device
        self._pinned = pinned
        num_slots = num_pages * page_tokens
        # One flat view per layer, [pages * page_tokens, Hkv, Dh]: slot arithmetic instead of two indices.
        self.keys = [self._allocate(num_slots, layer) for layer in spec.layers]
        self.values = [self._allocate(num_slots, layer) for layer in spec.layers]
        self._pages = pages.PageAllocator(num_pages)

    def _allocate(self, num_slots: int, layer: LayerKV) -> torch.Tensor:
        # Not zeroed: a slot is read only after it was written, and untouched memory costs nothing on Linux.
        shape = (num_slots, layer.num_kv_heads, layer.head_dim)
        return torch.empty(shape, dtype=self.dtype, device=self.torch_device, pin_memory=self._pinned)

    @staticmethod
    def bytes_per_token(spec: KVSpec, dtype: torch.dtype) -> int:
        """Bytes that one cached token takes over all layers of `spec`."""
        return sum(2 * layer.num_kv_heads * layer.head_dim for layer in spec.layers) * dtype.itemsize

    @property
    def free_pages(self) -> int:
        return self._pages.free_pages

    @property
    def used_share(self) -> float:
        """The share of pages that sessions hold, 0 … 1."""
        return 1.0 - self._pages.free_pages / self.num_pages if self.num_pages else 1.0

    def open(self) -> SequenceKV:
        """A session without any token; it holds no page until it reserves some."""
        return SequenceKV(self, self._pages)


class SequenceKV:
    """One session's page table. `kv_len` tokens are cached; slots below `capacity_tokens` may be written."""

    def __init__(self, cache: PagedKVCache, allocator: pages.PageAllocator) -> None:
        self.cache = cache
        self.kv_len = 0
        self._allocator = allocator
        self._pages: list[int] = []
        self._contiguous = True

    @property
    def pages(self) -> Sequence[int]:
        """Where its slots lie, page by page."""
        return self._pages

    @property
    def capacity_tokens(self) -> int:
        return len(self._pages) * self.cache.page_tokens

    @property
    def base_slot(self) -> int | None:
        """The physical slot of slot 0 when the pages are consecutive, else None."""
        if not self._contiguous:
            return None
        return self._pages[0] * self.cache.page_tokens if self._pages else 0

    def reserve(self, num_tokens: int) -> None:
        """Makes room for `num_tokens` beyond `kv_len`; raises `KVCacheFull`, changing nothing, if there is none."""
        page_tokens = self.cache.page_tokens
        missing = -(-(self.kv_len + num_tokens) // page_tokens) - len(self._pages)
        if missing <= 0:
            return
        if missing > self._allocator.free_pages:
            raise errors.KVCacheFull(
                f"the KV cache has {self._allocator.free_pages} of {self.cache.num_pages} pages free and this session "
                f"needs {missing} more: try again later or give the cache more memory",
                field="kv_cache",
            )
        if not self._pages:
            first = self._allocator.take_run(missing, room=missing)
            grown = list(range(first, first + missing)) if first is not None else self._allocator.take_any(missing)
            self._adopt(grown)
        elif self._contiguous and self._allocator.extend(self._pages[-1] + 1, missing):
            self._pages.extend(range(self._pages[-1] + 1, self._pages[-1] + 1 + missing))
        elif not self._relocate(missing):
            self._adopt(self._pages + self._allocator.take_any(missing))

    def truncate(self, kv_len: int) -> None:
        """Forgets the tokens from slot `kv_len` on (rollback) and returns the pages that become empty."""
        assert 0 <= kv_len <= self.kv_len, "a caller checks positions that come from a peer"
        self.kv_len = kv_len
        kept = -(-kv_len // self.cache.page_tokens)
        if kept < len(self._pages):
            self._allocator.give_back(self._pages[kept:])
            self._adopt(self._pages[:kept])

    def move(self, source_slots: Sequence[int], target_slots: Sequence[int]) -> None:
        """Copies rows of slots to other slots in every layer; all sources are read before any target is written."""
        assert len(source_slots) == len(target_slots)
        if not source_slots:
            return
        source, target = self.physical_slots(source_slots), self.physical_slots(target_slots)
        for rows in (*self.cache.keys, *self.cache.values):
            rows.index_copy_(0, target, rows.index_select(0, source))

    def copy_from(self, other: SequenceKV, num_tokens: int) -> None:
        """Begins this empty session with the first `num_tokens` of `other`; raises `KVCacheFull` as `reserve` does."""
        assert self.kv_len == 0 and num_tokens <= other.kv_len
        self.reserve(num_tokens)
        source, target = other.physical_slots(range(num_tokens)), self.physical_slots(range(num_tokens))
        for rows in (*self.cache.keys, *self.cache.values):
            rows.index_copy_(0, target, rows.index_select(0, source))
        self.kv_len = num_tokens

    def close(self) -> None:
        """Returns all pages; safe to call twice."""
        self._allocator.give_back(self._pages)
        self._adopt([])
        self.kv_len = 0

    def physical_slots(self, slots: Sequence[int] | range) -> torch.Tensor:
        """Where `slots` lie in the layers' flat tensors: int64 [len(slots)] on the cache's device."""
        page_tokens = self.cache.page_tokens
        if self._contiguous and isinstance(slots, range):
            base = self.base_slot or 0
            return torch.arange(base + slots.start, base + slots.stop, device=self.cache.torch_device)
        # The dtype is said because torch takes an empty list for floats, which index nothing.
        logical = torch.as_tensor(slots if not isinstance(slots, range) else list(slots), dtype=torch.int64)
        table = torch.as_tensor(self._pages, dtype=torch.int64)
        physical = table[logical // page_tokens] * page_tokens + logical % page_tokens
        return physical.to(self.cache.torch_device)

    def _adopt(self, new_pages: list[int]) -> None:
        self._pages = new_pages
        self._contiguous = all(after == page + 1 for page, after in itertools.pairwise(new_pages))

    def _relocate(self, missing: int) -> bool:
        """Moves the session to a longer free run so that it stays consecutive.

        Asking for half as much room again keeps the copying linear in the session's length.
        """
        count = len(self._pages) + missing
        source = self.physical_slots(range(self.kv_len))
        first = self._allocator.take_run(count, room=count + max(1, count // 2))
        if first is None:
            return False
        start = first * self.cache.page_tokens
        for rows in (*self.cache.keys, *self.cache.values):
            rows[start : start + self.kv_len] = rows.index_select(0, source)
        self._allocator.give_back(self._pages)
        self._adopt(list(range(first, first + count)))
        return True
