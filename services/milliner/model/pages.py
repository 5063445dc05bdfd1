"""Which pages of a KV cache are free, and where the next ones should come from. Pure bookkeeping, no tensors.

Called by `kv_cache`, on the accelerator's executor thread only. Free pages are kept as maximal runs sorted by page.
A sequence whose pages are consecutive is read as a view instead of a gather, so pages are given out to keep sequences
consecutive: growth takes the page next door when it is free; a new sequence starts in the middle of the largest run
unless nobody's pages touch the left end of that run, so that its left neighbour can grow too.
"""

from __future__ import annotations

import bisect


class PageAllocator:
    """Hands out page numbers below `num_pages`. Callers check `free_pages` first; asking for more is a bug."""

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self.free_pages = num_pages
        self._runs: list[tuple[int, int]] = [(0, num_pages)] if num_pages else []  # half-open, sorted, maximal

    def extend(self, after: int, count: int) -> bool:
        """Takes pages [after, after + count) if all are free; changes nothing otherwise."""
        at = bisect.bisect_right(self._runs, (after, self.num_pages + 1)) - 1
        if at < 0:
            return False
        first, end = self._runs[at]
        if first > after or end < after + count:
            return False
        self._cut(at, after, count)
        return True

    def take_run(self, count: int, *, room: int) -> int | None:
        """Takes `count` consecutive pages from a run of at least `room`; returns the first, None if there is none."""
        if not self._runs:
            return None
        at = max(range(len(self._runs)), key=lambda i: self._runs[i][1] - self._runs[i][0])
        first, end = self._runs[at]
        if end - first < max(count, room):
            return None
        middle = first + (end - first) // 2
        start = middle if first > 0 and middle + max(count, room) <= end else first
        self._cut(at, start, count)
        return start

    def take_any(self, count: int) -> list[int]:
        """Takes `count` pages wherever they are, largest runs first."""
        assert count <= self.free_pages, "the caller checks free_pages"
        pages: list[int] = []
        while len(pages) < count:
            at = max(range(len(self._runs)), key=lambda i: self._runs[i][1] - self._runs[i][0])
            first, end = self._runs[at]
            taken = min(count - len(pages), end - first)
            self._cut(at, first, taken)
            pages.extend(range(first, first + taken))
        return pages

    def give_back(self, pages: list[int]) -> None:
        """Frees pages; consecutive ones are merged with the free runs beside them."""
        begin = 0
        for i in range(1, len(pages) + 1):
            if i == len(pages) or pages[i] != pages[i - 1] + 1:
                self._join(pages[begin], pages[i - 1] + 1)
                begin = i
        self.free_pages += len(pages)

    def _cut(self, at: int, start: int, count: int) -> None:
        first, end = self._runs[at]
        rest = [(a, b) for a, b in ((first, start), (start + count, end)) if a < b]
        self._runs[at : at + 1] = rest
        self.free_pages -= count

    def _join(self, start: int, end: int) -> None:
        at = bisect.bisect_left(self._runs, (start, end))
        if at < len(self._runs):
            assert end <= self._runs[at][0], "a page was freed twice"
            if end == self._runs[at][0]:
                end = self._runs.pop(at)[1]
        if at > 0:
            assert self._runs[at - 1][1] <= start, "a page was freed twice"
            if self._runs[at - 1][1] == start:
                start = self._runs.pop(at - 1)[0]
                at -= 1
        self._runs.insert(at, (start, end))
