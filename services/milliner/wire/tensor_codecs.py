"""The codecs' arithmetic on tensors; imported by `codecs` on first use, so that the wire loads without torch."""

from __future__ import annotations

import torch

from milliner.core import types

_RAW = {
    types.Codec.FLOAT32: torch.float32,
    types.Codec.BFLOAT16: torch.bfloat16,
    types.Codec.FLOAT16: torch.float16,
}


def encode(hidden: torch.Tensor, codec: types.Codec) -> bytes:
    """The bytes of `hidden` [T, D]."""
    return _raw_bytes(hidden, _RAW[codec])


def decode(data: bytes, codec: types.Codec, *, hidden_size: int) -> torch.Tensor:
    """The hidden states [T, D] behind `data`, in the dtype that the codec holds."""
    # bytearray: torch warns about read-only memory, and the engine may write in place
    return torch.frombuffer(bytearray(data), dtype=_RAW[codec]).view(-1, hidden_size)


def _raw_bytes(hidden: torch.Tensor, dtype: torch.dtype) -> bytes:
    if dtype is torch.float16:
        limit = torch.finfo(torch.float16).max
        # a finite number beyond float16's range saturates: an infinity would wipe out every later position
        hidden = torch.where(hidden.isfinite(), hidden.clamp(-limit, limit), hidden)
    values = hidden.detach().to(device="cpu", dtype=dtype).contiguous()  # [T, D]
    return values.view(torch.uint8).numpy().tobytes()
