"""Ragged batches: many sessions' tokens in one forward pass, and where each of them reads and writes its KV cache.

A `RaggedBatch` is built once per forward pass on the executor thread; every layer of the slice uses it. What a layer
needs beyond its own tensors (slots to write, views or gathers to read, masks) is worked out once per sliding window
and kept. Three kinds of reads exist:

- a **view** of consecutive pages, no copy: the usual case;
- a **gather** of one session's scattered pages;
- a **grouped gather** of many sessions with equally many tokens, padded to the longest: fewer kernels on a GPU.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

import torch

from milliner.model import kv_cache, prompt_watch

# Segments of at most this many tokens are read in groups where grouping is asked for; longer ones fill a kernel alone.
# Arbitrary: it covers one token and the draft lengths of verification frames.
MAX_GROUPED_TOKENS = 16
# On a CPU, where a gather is a copy that costs: a segment with more slots is read in place. Two cores of an AMD EPYC,
# eight sessions of bfloat16: 5.4 ms in a group and 8.6 apart behind 256 tokens, 16.2 and 9.3 behind 1,024 (2026-11-22).
MAX_GROUPED_SLOTS = 512


@dataclasses.dataclass(frozen=True, slots=True)
class Segment:
    """One session's tokens in a batch; they occupy slots [start, start + num_tokens) of its `SequenceKV`.

    `positions` [num_tokens]: rotary positions, by default the slots. `visible` bool [num_tokens, start + num_tokens]:
    which slots each token sees (a draft tree), by default all up to itself. `slot_positions` [start + num_tokens]:
    the positions of the slots; sliding windows need them when `visible` is given, by default a slot is its position.
    `watch` sees how the tokens that it asks for attend; only where slots are positions.
    """

    sequence: kv_cache.SequenceKV
    start: int
    num_tokens: int
    positions: torch.Tensor | None = None
    visible: torch.Tensor | None = None
    slot_positions: torch.Tensor | None = None
    watch: prompt_watch.PromptWatch | None = None

    @property
    def end(self) -> int:
        return self.start + self.num_tokens


@dataclasses.dataclass(frozen=True, slots=True)
class Read:
    """What `num_segments` segments of `num_tokens` tokens each, from batch token `begin` on, read from the cache.

    `base`: first physical slot of a view of `length` slots; None: `index` [num_segments, length] holds the slots.
    `mask`: additive [num_segments, num_tokens, length] in the cache's dtype; None: everything is visible, or, with
    `causal`, everything up to the token itself, the last tokens being aligned (only with as many slots as tokens).
    """

    begin: int
    num_tokens: int
    length: int
    num_segments: int = 1
    base: int | None = None
    index: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    causal: bool = False

    @property
    def end(self) -> int:
        return self.begin + self.num_segments * self.num_tokens


@dataclasses.dataclass(frozen=True, slots=True)
class Watched:
    """What a watch asks for of one segment, `read` being of its tokens alone; positions of first query and key."""

    watch: prompt_watch.PromptWatch
    read: Read
    first_query: int
    first_key: int


class RaggedBatch:
    """The segments of one forward pass, one after the other along the token axis.

    `positions` int64 [T]; `write_base` is the first physical slot written when all are consecutive, else
    `write_index` int64 [T] lists them; `max_position` is the highest rotary position plus one.
    """

    def __init__(self, segments: Sequence[Segment], *, torch_device: torch.device, grouped: bool) -> None:
        self.segments = tuple(segments)
        self.cache = self.segments[0].sequence.cache
        self.torch_device = torch_device
        self.num_tokens = sum(segment.num_tokens for segment in self.segments)
        self._grouped = grouped
        self._reads: dict[int | None, tuple[Read, ...]] = {}
        self._watching = any(segment.watch is not None for segment in self.segments)
        self._watched: dict[int | None, tuple[Watched, ...]] = {}
        self.max_position = max(_max_position(segment) for segment in self.segments)
        self.positions = torch.cat([_positions(segment, torch_device) for segment in self.segments])
        first = self.segments[0]
        base = first.sequence.base_slot
        self.write_base = base + first.start if len(self.segments) == 1 and base is not None else None
        self.write_index = None
        if self.write_base is None:
            slots = [segment.sequence.physical_slots(range(segment.start, segment.end)) for segment in self.segments]
            self.write_index = torch.cat(slots)

    @classmethod
    def build(
        cls, segments: Sequence[Segment], *, torch_device: torch.device, grouped: bool | None = None
    ) -> RaggedBatch:
        """Checks the segments and lays them out. `grouped`: gather short segments together.

        Default: on GPUs, and on CPUs with several torch threads: one call for 16 decoding sessions uses them, calls of
        one session each do not (`milliner bench engine`, 2 cores: 1.05 instead of 1.29 of bare layers). A single thread
        does better reading each session's pages in place (`docs/decisions`: ragged attention).
        """
        assert segments, "a batch holds at least one segment"
        for segment in segments:
            assert segment.sequence.cache is segments[0].sequence.cache, "all sessions of a batch share one cache"
            assert segment.num_tokens > 0
            assert 0 <= segment.start <= segment.sequence.kv_len, "a segment starts inside what is cached or at its end"
            assert segment.end <= segment.sequence.capacity_tokens, "reserve() was called before"
            assert segment.visible is None or segment.visible.shape == (segment.num_tokens, segment.end)
        return cls(
            segments,
            torch_device=torch_device,
            grouped=torch_device.type != "cpu" or torch.get_num_threads() > 1 if grouped is None else grouped,
        )

    def reads(self, sliding_window: int | None) -> tuple[Read, ...]:
        """What a layer with this window reads; worked out at the first layer that asks."""
        if sliding_window not in self._reads:
            self._reads[sliding_window] = tuple(self._plan(sliding_window))
        return self._reads[sliding_window]

    def watched(self, layer: int, sliding_window: int | None) -> Iterable[Watched]:
        """What watches ask for on a layer of the model with this window."""
        if not self._watching:
            return ()
        if sliding_window not in self._watched:
            self._watched[sliding_window] = tuple(self._plan_watches(sliding_window))
        return [view for view in self._watched[sliding_window] if layer in view.watch.layers]

    def commit(self) -> None:
        """Makes the written tokens part of the sessions: `kv_len` becomes each segment's end."""
        for segment in self.segments:
            segment.sequence.kv_len = segment.end

    def _plan(self, window: int | None) -> list[Read]:
        begins = itertools.accumulate((segment.num_tokens for segment in self.segments), initial=0)
        placed = zip(itertools.count(), begins, self.segments, strict=False)
        planned: list[Read] = []
        for _, group in itertools.groupby(placed, key=self._group_key):
            (_, begin, first), *others = group
            if others:
                planned.append(self._read_group(begin, [first, *(segment for _, _, segment in others)], window))
            else:
                planned.append(self._read_alone(begin, first, window))
        return planned

    def _plan_watches(self, window: int | None) -> Iterator[Watched]:
        begin = 0
        for segment in self.segments:
            watch = segment.watch
            if watch is not None and segment.end > watch.first and segment.start < watch.end:
                assert segment.visible is None and segment.positions is None, "a prompt's slots are its positions"
                first, end = max(segment.start, watch.first), min(segment.end, watch.end)
                part = Segment(segment.sequence, start=first, num_tokens=end - first)
                read = self._read_alone(begin + first - segment.start, part, window)
                yield Watched(watch, read, first_query=first, first_key=_lowest_slot(part, window))
            begin += segment.num_tokens

    def _group_key(self, placed: tuple[int, int, Segment]) -> tuple[int, int]:
        """Neighbours with equal keys are read together: of lengths within a factor of two, which bounds the padding."""
        number, _, segment = placed
        groups = self._grouped and segment.num_tokens <= MAX_GROUPED_TOKENS
        if self.torch_device.type == "cpu":
            groups = groups and segment.end <= MAX_GROUPED_SLOTS
        return (segment.num_tokens, -segment.end.bit_length() if groups else number)

    def _read_alone(self, begin: int, segment: Segment, window: int | None) -> Read:
        low = _lowest_slot(segment, window)
        length = segment.end - low
        base = segment.sequence.base_slot
        index = None if base is not None else segment.sequence.physical_slots(range(low, segment.end))[None]
        causal, mask = False, None
        if segment.visible is None and segment.start == 0 and segment.num_tokens > 1 and _within(segment.end, window):
            causal = True
        elif segment.num_tokens > 1 or segment.visible is not None:
            mask = self._additive(_visible(segment, low, window))[None]
        return Read(
            begin=begin,
            num_tokens=segment.num_tokens,
            length=length,
            base=None if base is None else base + low,
            index=index,
            mask=mask,
            causal=causal,
        )

    def _read_group(self, begin: int, segments: list[Segment], window: int | None) -> Read:
        lows = [_lowest_slot(segment, window) for segment in segments]
        length = max(segment.end - low for segment, low in zip(segments, lows, strict=True))
        num_tokens = segments[0].num_tokens
        # Padding reads the session's own first slot: always written, and masked out below.
        index = torch.stack(
            [
                _pad(segment.sequence.physical_slots(range(low, segment.end)), length)
                for segment, low in zip(segments, lows, strict=True)
            ]
        )
        uniform = num_tokens == 1 and all(
            segment.visible is None and segment.end - low == length for segment, low in zip(segments, lows, strict=True)
        )
        mask = None
        if not uniform:
            visible = torch.zeros(len(segments), num_tokens, length, dtype=torch.bool)
            for row, (segment, low) in enumerate(zip(segments, lows, strict=True)):
                visible[row, :, : segment.end - low] = _visible(segment, low, window)
            mask = self._additive(visible)
        return Read(
            begin=begin, num_tokens=num_tokens, length=length, num_segments=len(segments), index=index, mask=mask
        )

    def _additive(self, visible: torch.Tensor) -> torch.Tensor:
        mask = torch.zeros(visible.shape, dtype=self.cache.dtype)
        return mask.masked_fill_(~visible, float("-inf")).to(self.torch_device)


def _positions(segment: Segment, torch_device: torch.device) -> torch.Tensor:
    if segment.positions is None:
        return torch.arange(segment.start, segment.end, device=torch_device)
    return segment.positions.to(torch_device)


def _max_position(segment: Segment) -> int:
    return segment.end if segment.positions is None else int(segment.positions.max()) + 1


def _within(num_slots: int, window: int | None) -> bool:
    return window is None or num_slots <= window


def _lowest_slot(segment: Segment, window: int | None) -> int:
    """The first slot that any token of the segment can see; trees are read from the start."""
    if window is None or segment.visible is not None or segment.slot_positions is not None:
        return 0
    return max(0, segment.start - window + 1)


def _visible(segment: Segment, low: int, window: int | None) -> torch.Tensor:
    """bool [num_tokens, end - low]: which slots from `low` on each token sees. A window counts the token itself."""
    own = torch.arange(segment.start, segment.end)[:, None]
    slots = torch.arange(low, segment.end)[None]
    seen = slots <= own if segment.visible is None else segment.visible[:, low:].cpu()
    if window is None:
        return seen
    if segment.slot_positions is not None:
        slots = segment.slot_positions[None, low:].cpu()
        own = segment.slot_positions[segment.start : segment.end, None].cpu()
    return seen & (own - slots < window)


def _pad(slots: torch.Tensor, length: int) -> torch.Tensor:
    return torch.cat([slots, slots[:1].expand(length - len(slots))])
