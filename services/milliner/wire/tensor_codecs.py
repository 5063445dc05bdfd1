"""The codecs on tensors; imported by `codecs` on first use, so that the wire's other modules load without torch."""

from __future__ import annotations

import torch

from milliner.core import types
from milliner.wire import quantisation

_RAW = {
    types.Codec.FLOAT32: torch.float32,
    types.Codec.BFLOAT16: torch.bfloat16,
    types.Codec.FLOAT16: torch.float16,
}


def encode(hidden: torch.Tensor, codec: types.Codec) -> bytes:
    """The bytes of `hidden` [T, D]; quantised where the tensor is, then copied."""
    match codec:
        case types.Codec.INT8:
            rows = quantisation.encode_int8(hidden)
        case types.Codec.INT4:
            rows = quantisation.encode_int4(hidden)
        case _:
            rows = _encode_raw(hidden, _RAW[codec])
    return rows.cpu().numpy().tobytes()


def decode(data: bytes, codec: types.Codec, *, hidden_size: int, num_tokens: int) -> torch.Tensor:
    """The hidden states [T, D] behind `data`, whose size the caller has checked; in the codec's own precision."""
    # bytearray: torch warns about read-only memory, and the result may be written to
    rows = torch.frombuffer(bytearray(data), dtype=torch.uint8).view(num_tokens, -1)  # [T, bytes of a position]
    match codec:
        case types.Codec.INT8:
            return quantisation.decode_int8(rows, hidden_size=hidden_size)
        case types.Codec.INT4:
            return quantisation.decode_int4(rows, hidden_size=hidden_size)
    return rows.view(_RAW[codec])


def _encode_raw(hidden: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The tensor's own bytes in `dtype`: uint8 [T, bytes of a position]."""
    if dtype is torch.float16 and hidden.dtype is not torch.float16:
        limit = torch.finfo(torch.float16).max
        # a finite number beyond float16's range saturates: as an infinity it would wipe out all later positions
        hidden = torch.where(hidden.isfinite(), hidden.clamp(-limit, limit), hidden)
    return hidden.detach().to(dtype).contiguous().view(torch.uint8)
