"""Int8 and Int4 on tensors: rotate, scale, round to levels, pack; and back. `layout` has the sizes.

A position is written by itself: first its levels, then its scales (bfloat16, little-endian).

Int8   one scale per position, largest magnitude / 127; levels −127 to 127 as signed bytes.
Int4   one scale per group of 64 rotated numbers, their largest magnitude; 16 levels between −1 and 1 that are dense
       around zero, where a rotated state's numbers are; the first of two levels in the low half of a byte.

Levels are chosen for the scale as rounded to bfloat16, so that rounding it costs nothing. A position with a number
that is not finite (or that overflows in the rotation) comes out as NaN in full: it never turns into plausible values.
"""

from __future__ import annotations

import functools

import torch
from torch.nn import functional

from milliner.wire import layout, rotation

_INT8_MAX = 127
# The positive half of Int4's levels: Lloyd's algorithm on groups of 64 normal numbers over their largest magnitude
# (6,250 groups, errors weighted by the square of the scale). Relative error on normal numbers 0.087; with 16 levels
# of equal distance 0.096, with 15 (zero among them) 0.107.
_INT4_LEVELS = (0.0465, 0.1410, 0.2384, 0.3421, 0.4556, 0.5855, 0.7416, 0.9543)
_INT4_CELLS = 512  # resolution of the table from a number in [-1, 1] to its nearest level


def encode_int8(hidden: torch.Tensor) -> torch.Tensor:
    """The wire's bytes of `hidden` [T, D]: uint8 [T, D + 2]."""
    rotated = rotation.rotate(hidden.float())  # [T, D]
    scales = _scales(rotated.abs().amax(dim=-1, keepdim=True) / _INT8_MAX)  # [T, 1]
    levels = _over(rotated, scales).round().clamp(-_INT8_MAX, _INT8_MAX).to(torch.int8)
    return torch.cat([levels.view(torch.uint8), scales.view(torch.uint8)], dim=-1)


def decode_int8(rows: torch.Tensor, *, hidden_size: int) -> torch.Tensor:
    """Hidden states [T, D] float32 of the wire's bytes, uint8 [T, D + 2]."""
    levels = rows[:, :hidden_size].view(torch.int8)  # [T, D]
    return rotation.rotate_back(levels.float() * _read_scales(rows[:, hidden_size:]))  # scales [T, 1]


def encode_int4(hidden: torch.Tensor) -> torch.Tensor:
    """The wire's bytes of `hidden` [T, D]: uint8 [T, ⌈D / 2⌉ + 2 · ⌈D / 64⌉]."""
    width = hidden.shape[-1]
    groups = _groups(rotation.rotate(hidden.float()))
    scales = _scales(groups.abs().amax(dim=-1))  # [T, G]
    unit = _over(groups, scales.unsqueeze(-1)).flatten(-2)[:, : width + width % 2]  # [T, D or D + 1]
    cells = ((unit + 1) * (_INT4_CELLS // 2)).to(torch.int32).clamp(0, _INT4_CELLS - 1)
    codes = _code_of_cell(hidden.device).index_select(0, cells.flatten()).view(cells.shape)
    packed = codes[:, 0::2] | codes[:, 1::2] << 4  # [T, ⌈D / 2⌉]
    return torch.cat([packed, scales.view(torch.uint8)], dim=-1)


def decode_int4(rows: torch.Tensor, *, hidden_size: int) -> torch.Tensor:
    """Hidden states [T, D] float32 of the wire's bytes, uint8 [T, ⌈D / 2⌉ + 2 · ⌈D / 64⌉]."""
    num_packed = -(-hidden_size // 2)
    scales = _read_scales(rows[:, num_packed:])  # [T, G]
    pairs = _levels_of_byte(rows.device).index_select(0, rows[:, :num_packed].flatten().int())  # [T · ⌈D / 2⌉, 2]
    unit = pairs.view(rows.shape[0], -1)[:, :hidden_size]  # [T, D]
    return rotation.rotate_back((_groups(unit) * scales.unsqueeze(-1)).flatten(-2)[:, :hidden_size])


def _groups(values: torch.Tensor) -> torch.Tensor:
    """[T, D] as [T, G, 64], the last group filled up with zeros."""
    padded = functional.pad(values, (0, -values.shape[-1] % layout.INT4_GROUP))
    return padded.reshape(values.shape[0], -1, layout.INT4_GROUP)


def _scales(magnitudes: torch.Tensor) -> torch.Tensor:
    """Scales as they cross the wire; NaN where a number behind them is not finite."""
    rounded = magnitudes.to(torch.bfloat16)
    return torch.where(rounded.isfinite(), rounded, torch.nan)


def _read_scales(columns: torch.Tensor) -> torch.Tensor:
    """[T, G] float32 of the wire's bytes, uint8 [T, 2 · G]; copied, because they may start at an odd address."""
    return columns.clone(memory_format=torch.contiguous_format).view(torch.bfloat16).float()


def _over(values: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """`values` / `scales`; zero where the scale is zero (nothing to write) or NaN (it says so itself)."""
    return torch.nan_to_num(values / scales.float(), nan=0.0, posinf=0.0, neginf=0.0)


@functools.cache
def _levels(torch_device: torch.device) -> torch.Tensor:
    """[16] levels in rising order; a code is an index into them."""
    positive = torch.tensor(_INT4_LEVELS)
    return torch.cat([-positive.flip(0), positive]).to(torch_device)


@functools.cache
def _code_of_cell(torch_device: torch.device) -> torch.Tensor:
    """[cells] uint8: the code of the level nearest to each cell's middle."""
    middles = (torch.arange(_INT4_CELLS) + 0.5) / (_INT4_CELLS // 2) - 1
    nearest = (middles[:, None] - _levels(torch.device("cpu"))).abs().argmin(dim=-1)
    return nearest.to(torch.uint8).to(torch_device)


@functools.cache
def _levels_of_byte(torch_device: torch.device) -> torch.Tensor:
    """[256, 2]: the two levels in a byte."""
    byte = torch.arange(256)
    return _levels(torch.device("cpu"))[torch.stack([byte & 15, byte >> 4], dim=-1)].to(torch_device)
