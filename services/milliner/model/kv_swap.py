"""Host memory for KV caches that are not needed now, and the copies to and from it.

Pages of the same size as on the accelerator, in pinned memory where that is a GPU; copies run there on a stream of
their own, in their order, so that they overlap with a batch that does not touch what moves. Whoever computes on what
was moved calls `wait` first. On the accelerator's executor thread only.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

import torch

from milliner.model import kv_cache


class KVSwapSpace:
    """`num_pages` pages of host memory beside `cache`."""

    def __init__(self, cache: kv_cache.PagedKVCache, *, num_pages: int) -> None:
        on_gpu = cache.torch_device.type == "cuda"
        self._cache = cache
        self._host = kv_cache.PagedKVCache(
            cache.spec,
            num_pages=num_pages,
            page_tokens=cache.page_tokens,
            dtype=cache.dtype,
            torch_device=torch.device("cpu"),
            pinned=on_gpu and num_pages > 0,
        )
        self._stream = torch.cuda.Stream(cache.torch_device) if on_gpu else None

    @property
    def free_pages(self) -> int:
        return self._host.free_pages

    def move_out(self, sequence: kv_cache.SequenceKV, num_tokens: int) -> kv_cache.SequenceKV:
        """The first `num_tokens` of a session's cache in host memory; its pages on the accelerator are free.

        Raises `KVCacheFull` where there is no room, changing nothing.
        """
        return self._move(sequence, self._host.open(), num_tokens)

    def move_in(self, sequence: kv_cache.SequenceKV) -> kv_cache.SequenceKV:
        """What `move_out` gave, back on the accelerator; raises `KVCacheFull` as it does."""
        return self._move(sequence, self._cache.open(), sequence.kv_len)

    def wait(self) -> None:
        """What the current stream computes from here on comes after all moves so far."""
        if self._stream is not None:
            torch.cuda.current_stream(self._cache.torch_device).wait_stream(self._stream)

    def settle(self) -> None:
        """Moves from here on come after what the current stream was given so far, and beside what it is given later."""
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._cache.torch_device))

    def _move(self, source: kv_cache.SequenceKV, target: kv_cache.SequenceKV, num_tokens: int) -> kv_cache.SequenceKV:
        assert num_tokens <= source.kv_len, "nobody moves what was not computed"
        target.reserve(num_tokens)
        target.kv_len = num_tokens
        with self._copying():
            for start, other, length in _runs(source, target, num_tokens):
                for origin, rows in zip(
                    itertools.chain(source.cache.keys, source.cache.values),
                    itertools.chain(target.cache.keys, target.cache.values),
                    strict=True,
                ):
                    rows[other : other + length].copy_(origin[start : start + length], non_blocking=True)
        source.close()  # whoever gets its pages writes them after `wait`, or by a later move
        return target

    @contextlib.contextmanager
    def _copying(self) -> Iterator[None]:
        with torch.cuda.stream(self._stream) if self._stream is not None else contextlib.nullcontext():
            yield


def _runs(source: kv_cache.SequenceKV, target: kv_cache.SequenceKV, num_tokens: int) -> Iterator[tuple[int, int, int]]:
    """(source slot, target slot, slots) of runs that are consecutive in both caches, up to `num_tokens` in all."""
    page_tokens = source.cache.page_tokens
    done = 0
    pairs = list(zip(source.pages, target.pages, strict=False))  # either may have reserved more
    while done < num_tokens:
        first = last = done // page_tokens
        while (last + 1) * page_tokens < num_tokens and all(
            after == page + 1 for page, after in zip(pairs[last], pairs[last + 1], strict=True)
        ):
            last += 1
        length = min(num_tokens, (last + 1) * page_tokens) - done
        yield pairs[first][0] * page_tokens, pairs[first][1] * page_tokens, length
        done += length
