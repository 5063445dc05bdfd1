"""What the device keeps of one request's committed positions: hidden states to replay, deep states to draft from.

Hidden states of every position are kept in the model's dtype, so that a lost cloud session can be rebuilt exactly: at
d = 4096 in bfloat16 that is 8 KiB a position, 64 MiB for a context of 8,192. Deep states are kept from the prompt's
last position on, and only while the drafter may still ask for them. Used on the device's executor thread.
"""

from __future__ import annotations

import collections

import torch

ANSWER_TOKENS = 64  # room beside the prompt before the first doubling; arbitrary


class History:
    """Rows by position; memory is taken with the first rows and grows by doubling."""

    def __init__(self, *, hidden_size: int, dtype: torch.dtype, torch_device: torch.device, prompt_tokens: int) -> None:
        self._width, self._dtype, self._torch_device = hidden_size, dtype, torch_device
        self._capacity = prompt_tokens + ANSWER_TOKENS
        self._rows: torch.Tensor | None = None
        self._deep: collections.deque[torch.Tensor] = collections.deque()
        self._first_deep = prompt_tokens - 1  # the position of `_deep`'s first
        self.length = 0

    def append(self, hidden: torch.Tensor) -> None:
        """Hidden states [T, D] of the next T positions."""
        end = self.length + hidden.shape[0]
        if self._rows is None or end > self._capacity:
            self._capacity = max(self._capacity, 2 * end)
            grown = torch.empty(self._capacity, self._width, dtype=self._dtype, device=self._torch_device)
            if self._rows is not None:
                grown[: self.length] = self._rows[: self.length]
            self._rows = grown
        self._rows[self.length : end] = hidden
        self.length = end

    def hidden(self, start: int, end: int) -> torch.Tensor:
        """[end - start, D]; a view."""
        assert 0 <= start <= end <= self.length
        assert self._rows is not None
        return self._rows[start:end]

    def append_deep(self, deep: torch.Tensor) -> None:
        """Deep states [T, D] of the next T positions, the first being the prompt's last.

        They are copied: a view would keep the whole reply, with what was rejected of it.
        """
        self._deep.extend(row.clone() for row in deep)

    def forget_deep(self, position: int) -> None:
        """Nobody will ask for deep states below `position` any more; the last one is kept all the same."""
        while self._first_deep < position and len(self._deep) > 1:
            self._deep.popleft()
            self._first_deep += 1

    def last_deep(self) -> torch.Tensor:
        """[D]: the state that the last known token was picked from."""
        return self._deep[-1]

    def deep_before(self, start: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the positions before start … end - 1: deep states [T, D], zero where unknown, and which are known [T]."""
        rows = torch.zeros(end - start, self._width, dtype=self._dtype, device=self._torch_device)
        known = torch.zeros(end - start, dtype=torch.bool, device=rows.device)
        for row, position in enumerate(range(start - 1, end - 1)):
            index = position - self._first_deep
            if 0 <= index < len(self._deep):
                rows[row], known[row] = self._deep[index], True
        return rows, known
