"""Which model families can be sliced exactly, and what they add to plain layers. Read by `decoder` and `slice`.

Slices run the families' own decoder layers, so most need nothing but their name in `family_table`. All others are
refused by name, because a family that does something between its layers would be computed wrongly without a sound.
"""

from __future__ import annotations

import transformers

from milliner.core import errors
from milliner.model import family_table, kv_cache

Family = family_table.Family
FAMILIES = family_table.FAMILIES
unknown_family = family_table.unknown_family

LAYER_TYPES = ("full_attention", "sliding_attention")


def check(config: transformers.PretrainedConfig) -> Family:
    """The family of a text configuration; raises `UnsupportedModel` where slices would not be exact."""
    refusal = _refusal(config)
    if refusal is not None:
        raise errors.UnsupportedModel(refusal, field="config.json")
    return FAMILIES[config.model_type]


def _refusal(config: transformers.PretrainedConfig) -> str | None:
    model_type = config.model_type
    if model_type not in FAMILIES:
        return unknown_family(model_type)
    if getattr(config, "quantization_config", None) is not None:
        return "quantised weights are not supported: use the checkpoint before quantisation"
    foreign = sorted(set(getattr(config, "layer_types", None) or ()) - set(LAYER_TYPES))
    if foreign:
        return f"layers of type {', '.join(foreign)} are not supported, only {' and '.join(LAYER_TYPES)}"
    if getattr(config, "use_bidirectional_attention", False):
        return "bidirectional attention cannot be split between tiers"
    if "dynamic" in rope_types(config):
        return "rope_type 'dynamic' depends on the batch's longest sequence: set another rope_type in config.json"
    return None


def rope_types(config: transformers.PretrainedConfig) -> set[str]:
    """The kinds of rotary embedding in use, over all layer types."""
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    return {entry.get("rope_type", "default") for entry in (nested or [parameters])}


def max_positions(config: transformers.PretrainedConfig) -> int:
    """How many positions are computed exactly as `transformers` would.

    With rope_type 'longrope' (Phi-3 128k) the frequencies of *all* positions change once a sequence passes
    `original_max_position_embeddings`, which a KV cache cannot follow; such models serve up to that length.
    """
    positions = int(config.max_position_embeddings)
    if "longrope" in rope_types(config):
        original = (config.rope_parameters or {}).get("original_max_position_embeddings")
        original = original or getattr(config, "original_max_position_embeddings", None)
        return min(positions, int(original)) if original else positions
    return positions


def kv_spec(config: transformers.PretrainedConfig, *, start: int, end: int) -> kv_cache.KVSpec:
    """What layers [start, end) cache."""
    family = check(config)
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    layers = tuple(
        kv_cache.LayerKV(num_kv_heads=kv_heads, head_dim=head_dim, sliding_window=_window(config, family, index))
        for index in range(start, end)
    )
    return kv_cache.KVSpec(first_layer=start, layers=layers)


def _window(config: transformers.PretrainedConfig, family: Family, layer_index: int) -> int | None:
    layer_types = getattr(config, "layer_types", None)
    if layer_types is not None:
        return config.sliding_window if layer_types[layer_index] == "sliding_attention" else None
    return getattr(config, family.window, None) if family.window is not None else None
