"""The attention function that `transformers`' decoder layers call: writes new keys and values, reads each session's.

Registered with `ALL_ATTENTION_FUNCTIONS` as `milliner_ragged`. Layers pass `milliner_batch` (a `RaggedBatch`) through
their keyword arguments; without it a layer would attend across sessions, so its absence is a bug and raises.

Grouped-query attention without copying keys: the G query heads of one KV head are laid along the token axis,
`[Hkv, G·T, D]`, so one kernel reads each key once. For long segments the mask would grow G-fold; there
`enable_gqa` does the same inside the kernel (CPU) and heads are expanded where a fused kernel needs it (GPU).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import transformers

from milliner.core import errors
from milliner.model import ragged

NAME = "milliner_ragged"

# Arguments that change nothing here: dropout at inference, the window (it comes from the KV spec), positions (applied).
IGNORED = frozenset({"dropout", "sliding_window", "position_ids", "use_cache", "is_causal", "cache_position"})

# Up to this many tokens the mask is repeated per query head (folding); beyond it would outweigh the keys it saves.
# Measured on CPU at 14 heads over 2, d 64: folding wins by 25 % at 8 tokens, nothing is left at 256 (2026-11-21).
MAX_FOLDED_TOKENS = 64


# Up to this many tokens half-precision keys and values are widened on a CPU, where torch's fused kernels repack them
# for every call: for one token behind 2,100, one core of an AMD EPYC takes 0.48 (bfloat16) and 0.15 (float16) of the
# time so. Beyond it bfloat16 is as fast as it is, and faster on processors with matrix units (2026-11-22).
MAX_WIDENED_TOKENS = 64


def ragged_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    milliner_batch: ragged.RaggedBatch | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one layer over a ragged batch: `[1, H, T, D]` with new keys `[1, Hkv, T, D]` -> `[1, T, H, D]`.

    `softcap` (Gemma 2) and `s_aux` (attention sinks of GPT-OSS) have no fused kernel and take the plain path. Raises
    `UnsupportedModel` for keyword arguments whose meaning is not known here.
    """
    if not kwargs.keys() <= IGNORED:
        raise errors.UnsupportedModel(
            f"{type(module).__name__} asks for attention with {sorted(kwargs.keys() - IGNORED)}: not supported",
            field="config.json",
        )
    assert milliner_batch is not None, "this family's layers do not hand keyword arguments down to attention"
    batch = milliner_batch
    cache = batch.cache
    local = module.layer_idx - cache.spec.first_layer  # type: ignore[operator]
    window = cache.spec.layers[local].sliding_window
    if kwargs.get("sliding_window", window) != window:
        raise errors.UnsupportedModel(
            f"layer {module.layer_idx} attends to {kwargs['sliding_window']} tokens and {window} were expected",
            field="config.json",
        )
    keys, values = cache.keys[local], cache.values[local]
    _write(keys, key, batch)
    _write(values, value, batch)
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    rows = query[0].transpose(0, 1)  # [T, H, D], contiguous in most families
    for view in batch.watched(module.layer_idx, window):  # type: ignore[arg-type]
        _observe(module.layer_idx, rows, keys, view, scale, softcap, s_aux)  # type: ignore[arg-type]
    reads = batch.reads(window)
    parts = [
        _attend(rows[read.begin : read.end], _gather(keys, read), _gather(values, read), read, scale, softcap, s_aux)
        for read in reads
    ]
    return (parts[0] if len(parts) == 1 else torch.cat(parts))[None], None


def _write(rows: torch.Tensor, new: torch.Tensor, batch: ragged.RaggedBatch) -> None:
    tokens = new[0].transpose(0, 1)  # [T, Hkv, D]
    if batch.write_base is not None:
        rows[batch.write_base : batch.write_base + batch.num_tokens].copy_(tokens)
    else:
        rows.index_copy_(0, batch.write_index, tokens.to(rows.dtype))  # type: ignore[arg-type]


def _gather(cached: torch.Tensor, read: ragged.Read) -> torch.Tensor:
    """Keys or values of a read, `[B, Hkv, S, D]`: a view where the pages are consecutive."""
    if read.base is not None:
        return cached[read.base : read.base + read.length].transpose(0, 1)[None]
    assert read.index is not None
    # Not `cached[read.index]`, which on a CPU takes ten times as long.
    rows = cached.index_select(0, read.index.flatten())
    return rows.reshape(*read.index.shape, *cached.shape[1:]).transpose(1, 2)


def _attend(
    rows: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    read: ragged.Read,
    scale: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """rows `[B·T, H, D]` over keys `[B, Hkv, S, D]` -> `[B·T, H, Dv]`, in the rows' dtype."""
    dtype = rows.dtype
    if _widens(keys, read.num_tokens):
        rows, keys, values = rows.float(), keys.float(), values.float()
    return _attended(rows, keys, values, read, scale, softcap, sinks).to(dtype)


def _widens(keys: torch.Tensor, num_tokens: int) -> bool:
    """Whether float32 is faster, copies included; it is more exact as well."""
    if keys.device.type != "cpu":
        return False
    return keys.dtype is torch.float16 or (keys.dtype is torch.bfloat16 and num_tokens <= MAX_WIDENED_TOKENS)


def _attended(
    rows: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    read: ragged.Read,
    scale: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """As `_attend`, all in one dtype."""
    batch, tokens = read.num_segments, read.num_tokens
    heads, kv_heads = rows.shape[1], keys.shape[1]
    groups = heads // kv_heads
    mask = read.mask[:, None].to(rows.dtype) if read.mask is not None else None  # [B, 1, T, S]
    if softcap is not None or sinks is not None:
        query = rows.reshape(batch, tokens, heads, -1).transpose(1, 2)
        return _rows(_attend_plainly(query, keys, values, read, scale, softcap, sinks))
    if tokens == 1:
        query = rows.reshape(batch, kv_heads, groups, -1)
        if mask is not None:
            mask = mask.expand(batch, 1, groups, read.length)
        out = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scale)
        return out.reshape(batch, heads, -1)
    query = rows.reshape(batch, tokens, heads, -1).transpose(1, 2)  # [B, H, T, D]
    if tokens <= MAX_FOLDED_TOKENS and not read.causal and groups > 1:
        folded = query.reshape(batch, kv_heads, groups * tokens, -1)
        if mask is not None:
            mask = mask.repeat(1, 1, groups, 1)
        out = F.scaled_dot_product_attention(folded, keys, values, attn_mask=mask, scale=scale)
        return _rows(out.reshape(batch, heads, tokens, -1))
    if groups > 1 and keys.device.type != "cpu":
        keys, values = _expand(keys, groups), _expand(values, groups)
    out = F.scaled_dot_product_attention(
        query, keys, values, attn_mask=mask, is_causal=read.causal, scale=scale, enable_gqa=keys.shape[1] != heads
    )
    return _rows(out)


def _attend_plainly(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    read: ragged.Read,
    scale: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    weights = _weights(query, keys, read, scale, softcap, sinks).to(query.dtype)
    return torch.matmul(weights, _expand(values, query.shape[1] // keys.shape[1]))


def _observe(
    layer: int,
    rows: torch.Tensor,
    keys: torch.Tensor,
    view: ragged.Watched,
    scale: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> None:
    """Shows a watch the weights of the rows that it asks for."""
    read = view.read
    query = rows[read.begin : read.end].transpose(0, 1)[None]  # [1, H, T, D]
    weights = _weights(query, _gather(keys, read), read, scale, softcap, sinks)[0]  # [H, T, S]
    view.watch.observe(layer, weights, first_query=view.first_query, first_key=view.first_key)


def _weights(
    query: torch.Tensor,
    keys: torch.Tensor,
    read: ragged.Read,
    scale: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Weights [B, H, T, S] in float32 of queries [B, H, T, D] over keys [B, Hkv, S, D]: scores, soft cap, mask, sinks
    and softmax one after the other, as the families' own eager attention has it."""
    groups = query.shape[1] // keys.shape[1]
    scores = torch.matmul(query, _expand(keys, groups).transpose(2, 3)) * scale  # [B, H, T, S]
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if read.causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, float("-inf"))
    elif read.mask is not None:
        scores = scores + read.mask[:, None]
    if sinks is not None:
        column = sinks.reshape(1, -1, 1, 1).expand(scores.shape[0], -1, scores.shape[2], 1)
        scores = torch.cat([scores, column.to(scores.dtype)], dim=-1)
    return torch.softmax(scores, dim=-1, dtype=torch.float32)[..., : keys.shape[2]]


def _expand(rows: torch.Tensor, groups: int) -> torch.Tensor:
    """[B, Hkv, S, D] -> [B, H, S, D], each KV head repeated for its query heads."""
    batch, kv_heads, length, width = rows.shape
    return rows[:, :, None].expand(batch, kv_heads, groups, length, width).reshape(batch, -1, length, width)


def _rows(out: torch.Tensor) -> torch.Tensor:
    """[B, H, T, D] -> [B·T, H, D]."""
    batch, heads, tokens, width = out.shape
    return out.transpose(1, 2).reshape(batch * tokens, heads, width)


def register() -> None:
    """Makes the function known to `transformers`; harmless when called again."""
    transformers.AttentionInterface.register(NAME, ragged_attention)
