"""What the device keeps of one request's committed positions: hidden states to replay, deep states to draft from.

Hidden states of every position are kept in the model's dtype, so that a lost cloud session can be rebuilt exactly: at
d = 4096 in bfloat16 that is 8 KiB a position, 64 MiB for a context of 8,192. Deep states are kept from the prompt's
last position on. Used on the device's executor thread.
"""

from __future__ import annotations

import torch


class History:
    """Rows by position; grows by doubling."""

    def __init__(self, *, hidden_size: int, dtype: torch.dtype, torch_device: torch.device, prompt_tokens: int) -> None:
        self._hidden = torch.empty(prompt_tokens + 64, hidden_size, dtype=dtype, device=torch_device)
        self._deep: list[torch.Tensor] = []
        self._first_deep = prompt_tokens - 1
        self.length = 0

    def append(self, hidden: torch.Tensor) -> None:
        """Hidden states [T, D] of the next T positions."""
        end = self.length + hidden.shape[0]
        if end > self._hidden.shape[0]:
            grown = torch.empty(2 * end, self._hidden.shape[1], dtype=self._hidden.dtype, device=self._hidden.device)
            grown[: self.length] = self._hidden[: self.length]
            self._hidden = grown
        self._hidden[self.length : end] = hidden
        self.length = end

    def hidden(self, start: int, end: int) -> torch.Tensor:
        """[end - start, D]; a view."""
        assert 0 <= start <= end <= self.length
        return self._hidden[start:end]

    def append_deep(self, deep: torch.Tensor) -> None:
        """Deep states [T, D] of the next T positions, the first being the prompt's last."""
        self._deep.extend(deep.unbind())

    def last_deep(self) -> torch.Tensor:
        """[D]: the state that the last known token was picked from."""
        return self._deep[-1]

    def deep_before(self, start: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the positions before start … end - 1: deep states [T, D], zero where unknown, and which are known [T]."""
        rows = torch.zeros_like(self._hidden[:1]).repeat(end - start, 1)
        known = torch.zeros(end - start, dtype=torch.bool, device=rows.device)
        for row, position in enumerate(range(start - 1, end - 1)):
            index = position - self._first_deep
            if 0 <= index < len(self._deep):
                rows[row], known[row] = self._deep[index], True
        return rows, known
