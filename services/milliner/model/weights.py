"""Fills modules with a checkpoint's tensors: which stored tensors make up which parameter, shapes, dtypes, ties.

Most parameters are stored under their own name. Experts of mixture-of-experts layers are stored one by one and are
stacked here. Tensors of a layer that no parameter takes are refused: a bias that the configuration does not announce
would otherwise be dropped without a sound.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch

from milliner.core import errors
from milliner.model import checkpoint as checkpoints

# Frequencies of rotary embeddings, stored by old versions of transformers; they are computed from the configuration.
_IGNORED = re.compile(r"\.rotary_emb\.inv_freq$")


class WeightReader:
    """Reads parameters of one checkpoint into modules, converted to `dtype` on `torch_device`."""

    def __init__(self, checkpoint: checkpoints.Checkpoint, *, dtype: torch.dtype, torch_device: torch.device) -> None:
        self._checkpoint = checkpoint
        self._dtype = dtype
        self._torch_device = torch_device

    @property
    def norm_prefix(self) -> str:
        return f"{self._checkpoint.prefix}norm."

    def layer_prefix(self, layer_index: int) -> str:
        return f"{self._checkpoint.prefix}layers.{layer_index}."

    @property
    def embedding_prefix(self) -> str:
        return f"{self._checkpoint.prefix}embed_tokens."

    @property
    def lm_head_prefix(self) -> str:
        """`lm_head.`, or `language_model.lm_head.` where the text model sits inside a larger one."""
        outer = self._checkpoint.prefix.removesuffix("model.") if self._checkpoint.prefix != "model." else ""
        return next((p for p in (f"{outer}lm_head.", "lm_head.") if f"{p}weight" in self._checkpoint.files), "lm_head.")

    def fill(self, module: torch.nn.Module, prefix: str) -> torch.nn.Module:
        """Assigns every parameter of a module from the tensors under `prefix`; the module leaves the meta device."""
        state: dict[str, torch.Tensor] = {}
        used: set[str] = set()
        for name, parameter in module.state_dict().items():
            groups = self._sources(prefix, name)
            stored = self._checkpoint.read(source for group in groups for source in group)
            used.update(stored)
            tensor = _combine([[stored[source] for source in group] for group in groups])
            if tensor.shape != parameter.shape:
                raise errors.CheckpointError(
                    f"its shape is {list(tensor.shape)} and config.json asks for {list(parameter.shape)}: "
                    "tensors and configuration belong to different models",
                    field=prefix + name,
                )
            # A copy: the file may be replaced while the model serves.
            state[name] = tensor.to(device=self._torch_device, dtype=self._dtype, copy=True)
        extra = sorted(n for n in self._checkpoint.files if n.startswith(prefix) and n not in used)
        extra = [name for name in extra if not _IGNORED.search(name)]
        if extra:
            raise errors.CheckpointError(
                "the model that config.json describes has no place for this tensor: it belongs to another architecture",
                field=extra[0],
            )
        module.load_state_dict(state, strict=True, assign=True)
        left = [name for name, buffer in module.named_buffers() if buffer.is_meta]
        assert not left, f"buffers {left} of {type(module).__name__} are neither stored nor computed"
        return module.eval().requires_grad_(False)

    def fill_embedding(self, module: torch.nn.Module) -> torch.nn.Module:
        """As `fill`; Gemma's embedding classes also hold their scale as a buffer that is not stored."""
        scale = getattr(module, "scalar_embed_scale", None)
        if scale is not None:
            module.embed_scale = torch.tensor(scale, device=self._torch_device)
        return self.fill(module, self.embedding_prefix)

    def fill_lm_head(self, module: torch.nn.Module, *, shared: torch.Tensor | None) -> torch.nn.Module:
        """The stored lm_head, or the embedding's weights where they are tied; `shared` are these, if already read."""
        prefix = self.lm_head_prefix
        if f"{prefix}weight" in self._checkpoint.files:
            return self.fill(module, prefix)
        if not self._checkpoint.config.tie_word_embeddings:
            raise errors.CheckpointError(
                "the tensor is missing and config.json does not tie it to the embedding: download the checkpoint again",
                field=f"{prefix}weight",
            )
        if shared is None:
            return self.fill(module, self.embedding_prefix)
        module.load_state_dict({"weight": shared}, strict=True, assign=True)
        return module.eval().requires_grad_(False)

    def _sources(self, prefix: str, name: str) -> list[list[str]]:
        """Stored tensors of a parameter: groups are stacked, and stacks are joined along dimension 1."""
        full = prefix + name
        files = self._checkpoint.files
        if full in files:
            return [[full]]
        sparse = full.replace(".mlp.", ".block_sparse_moe.")  # Mixtral's stored spelling
        if sparse in files:
            return [[sparse]]
        for suffix, spellings in _EXPERTS.items():
            if not full.endswith(suffix):
                continue
            for experts, parts in spellings:
                base = full.removesuffix(suffix).replace(".mlp", f".{experts}") + ".experts"
                if f"{base}.0.{parts[0]}.weight" in files:
                    count = sum(1 for n in files if n.startswith(f"{base}.") and n.endswith(f".{parts[0]}.weight"))
                    return [[f"{base}.{i}.{part}.weight" for i in range(count)] for part in parts]
        return [[full]]  # absent: reading it names it


# Fused parameter -> (module that holds the experts, stored tensors of one expert), for Qwen's and Mixtral's spellings.
_EXPERTS: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    ".experts.gate_up_proj": (("mlp", ("gate_proj", "up_proj")), ("block_sparse_moe", ("w1", "w3"))),
    ".experts.down_proj": (("mlp", ("down_proj",)), ("block_sparse_moe", ("w2",))),
}


def _combine(groups: Sequence[Sequence[torch.Tensor]]) -> torch.Tensor:
    if len(groups) == 1 and len(groups[0]) == 1:
        return groups[0][0]
    return torch.cat([torch.stack(list(group)) for group in groups], dim=1)
