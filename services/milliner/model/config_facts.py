"""What a model's config.json says without being understood: sizes, numeric type, families that are refused. Torch-free.

`families` judges the parsed configuration in full, when a slice is loaded; here is what can be said before that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from milliner.contract import kinds
from milliner.core import errors
from milliner.model import family_table

_DTYPES = {
    "float32": kinds.Dtype.FLOAT32,
    "bfloat16": kinds.Dtype.BFLOAT16,
    "float16": kinds.Dtype.FLOAT16,
}


@dataclasses.dataclass(frozen=True, slots=True)
class ConfigFacts:
    """Sizes of a decoder model; `max_positions` is None where config.json leaves it to the family's default."""

    num_layers: int
    hidden_size: int
    dtype: kinds.Dtype
    max_positions: int | None


def read(raw_config: Mapping[str, Any], *, where: str, field: str) -> ConfigFacts:
    """The facts; raises `UnsupportedModel` or `SourceError` (*expected*), naming `where` and with that field."""
    text = raw_config.get("text_config") or raw_config  # multi-modal checkpoints keep the decoder's numbers apart
    model_type = text.get("model_type")
    if model_type is not None and model_type not in family_table.FAMILIES:
        raise errors.UnsupportedModel(f"{where}: {family_table.unknown_family(str(model_type))}", field=field)
    if raw_config.get("quantization_config") is not None:
        raise errors.UnsupportedModel(
            f"{where}: quantised weights are not supported: use the checkpoint before quantisation", field=field
        )
    return ConfigFacts(
        num_layers=_size(text, "num_hidden_layers", where, field),
        hidden_size=_size(text, "hidden_size", where, field),
        dtype=dtype(text, raw_config),
        max_positions=_max_positions(text),
    )


def dtype(*configs: Mapping[str, Any]) -> kinds.Dtype:
    """What the first of the configurations says that says it; float32 otherwise, as transformers has it."""
    for config in configs:
        named = config.get("dtype") or config.get("torch_dtype")
        if named is not None:
            return _DTYPES.get(str(named).removeprefix("torch."), kinds.Dtype.FLOAT32)
    return kinds.Dtype.FLOAT32


def _size(config: Mapping[str, Any], name: str, where: str, field: str) -> int:
    value = config.get(name)
    if not isinstance(value, int) or value < 1:
        raise errors.SourceError(
            f"config.json at {where} has no {name}: name a decoder model of a supported family", field=field
        )
    return value


def _max_positions(config: Mapping[str, Any]) -> int | None:
    """As `families.max_positions`: with longrope the original context only."""
    positions = config.get("max_position_embeddings")
    if not isinstance(positions, int):
        return None
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    original = rope.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
    longrope = "longrope" in (rope.get("rope_type"), rope.get("type"))
    return min(positions, original) if longrope and isinstance(original, int) else positions
