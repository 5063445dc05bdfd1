"""Bytes that each codec takes on the wire. Pure arithmetic without torch: server and client check sizes before tensors.

A position (one hidden state of `hidden_size` = D numbers) takes, little-endian:

========  =====================================================================  ==========================
codec     content                                                                bytes
========  =====================================================================  ==========================
Float32   D IEEE 754 singles                                                     4 · D
BFloat16  D upper halves of singles                                              2 · D
Float16   D IEEE 754 halves                                                      2 · D
Int8      D signed bytes, one bfloat16 scale                                     D + 2
Int4      ⌈D / 2⌉ bytes of two levels each, one bfloat16 scale per group of 64   ⌈D / 2⌉ + 2 · ⌈D / 64⌉
========  =====================================================================  ==========================
"""

from __future__ import annotations

from milliner.core import errors, types

INT4_GROUP = 64  # numbers that share a scale: docs/algorithms.md; 0.266 of float16's bytes at widths divisible by 64
SCALE_BYTES = 2  # a bfloat16: float32's range, and levels are chosen for the rounded scale, so its 8 bits cost nothing


def position_bytes(codec: types.Codec, hidden_size: int) -> int:
    """Bytes of one position of width `hidden_size` written with `codec`."""
    match codec:
        case types.Codec.FLOAT32:
            return 4 * hidden_size
        case types.Codec.BFLOAT16 | types.Codec.FLOAT16:
            return 2 * hidden_size
        case types.Codec.INT8:
            return hidden_size + SCALE_BYTES
        case types.Codec.INT4:
            return -(-hidden_size // 2) + SCALE_BYTES * -(-hidden_size // INT4_GROUP)


def check_payload(payload: types.Payload, hidden_size: int, *, field: str = "payload") -> None:
    """Raises `ShapeMismatch` unless the payload holds exactly `num_tokens` positions of width `hidden_size`."""
    expected = payload.num_tokens * position_bytes(payload.codec, hidden_size)
    if payload.num_tokens < 1:
        raise errors.ShapeMismatch("a payload holds at least one position, found none", field=f"{field}.num_tokens")
    if len(payload.data) != expected:
        raise errors.ShapeMismatch(
            f"{payload.num_tokens} positions of width {hidden_size} take {expected} bytes with {payload.codec}, "
            f"found {len(payload.data)}: send whole positions of the width agreed on opening",
            field=f"{field}.data",
        )
