"""Hidden states to bytes and back. Calls torch: only ever run on an executor thread; torch is imported on first use.

`layout` has the sizes and the table of codecs; `quantisation` the arithmetic of Int8 and Int4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from milliner.core import types
from milliner.wire import layout

if TYPE_CHECKING:
    import torch


def encode(hidden: torch.Tensor, codec: types.Codec) -> types.Payload:
    """A payload of all positions of `hidden` [T, D], any floating dtype on any torch device; T ≥ 1."""
    from milliner.wire import tensor_codecs

    return types.Payload(codec=codec, num_tokens=hidden.shape[0], data=tensor_codecs.encode(hidden, codec))


def decode(payload: types.Payload, hidden_size: int, dtype: torch.dtype) -> torch.Tensor:
    """The payload's hidden states [num_tokens, hidden_size] on the CPU in `dtype`.

    Raises `core.errors.ShapeMismatch` when the payload's size is not that of its positions (expected: a peer's doing).
    """
    from milliner.wire import tensor_codecs

    layout.check_payload(payload, hidden_size)
    return tensor_codecs.decode(payload.data, payload.codec, hidden_size=hidden_size, num_tokens=payload.num_tokens).to(
        dtype
    )


def bytes_per_position(codec: types.Codec, hidden_size: int) -> float:
    """Bytes of one position on the wire."""
    return float(layout.position_bytes(codec, hidden_size))
