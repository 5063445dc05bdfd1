"""Which element type this processor multiplies fastest: measured, since what instructions promise is not what is got.

A bench that emulates slower tiers needs real compute below the modelled one, and says which type it took. One torch
thread's rate decides; float32 is taken unless bfloat16 is clearly faster (processors without such instructions compute
it many times as slowly).
"""

from __future__ import annotations

import time

import torch

from milliner.contract import kinds

TORCH = {kinds.Dtype.FLOAT32: torch.float32, kinds.Dtype.BFLOAT16: torch.bfloat16}

_ROWS, _WIDTH = 512, 512  # a chunk of a prompt through a small layer: some milliseconds in all; arbitrary
_TURNS = 5
_CLEARLY = 1.2  # a conversion at each end of a layer must not eat the gain; arbitrary


def choose() -> kinds.Dtype:
    """`Float32` or `BFloat16`. Takes some milliseconds of the calling thread."""
    return chosen(_matmul_s(torch.float32), _matmul_s(torch.bfloat16))


def chosen(float32_s: float, bfloat16_s: float) -> kinds.Dtype:
    """The decision, given the seconds that one product takes in either."""
    return kinds.Dtype.BFLOAT16 if bfloat16_s * _CLEARLY < float32_s else kinds.Dtype.FLOAT32


def _matmul_s(dtype: torch.dtype) -> float:
    """Processor seconds of the fastest of some products [rows, width] x [width, width]."""
    rows, weight = torch.ones(_ROWS, _WIDTH, dtype=dtype), torch.ones(_WIDTH, _WIDTH, dtype=dtype)
    taken_s = []
    for _ in range(_TURNS):
        start_s = time.thread_time()
        torch.nn.functional.linear(rows, weight)
        taken_s.append(time.thread_time() - start_s)
    return min(taken_s)
