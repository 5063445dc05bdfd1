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
    def lm_head_source(self) -> str:
        """The prefix of lm_head's tensors: its own, or the embedding's where they are tied.

        Raises `CheckpointError` where neither is there.
        """
        outer = self._checkpoint.prefix.removesuffix("model.")  # `language_model.` inside some larger models
        for prefix in (f"{outer}lm_head.", "lm_head."):
            if f"{prefix}weight" in self._checkpoint.files:
                return prefix
        if self._checkpoint.config.tie_word_embeddings:
            return self.embedding_prefix
        raise errors.CheckpointError(
            "the tensor is missing and config.json does not tie it to the embedding: download the checkpoint again",
            field="lm_head.weight",
        )

    def sources(self, module: torch.nn.Module, prefix: str) -> dict[str, list[list[str]]]:
        """For each parameter of a module, the stored tensors that make it up: groups are stacked, stacks joined.

        Raises `CheckpointError` for a tensor that is missing and for one under `prefix` that no parameter takes.
        """
        found = {name: self._sources(prefix, name) for name in module.state_dict()}
        used = {source for groups in found.values() for group in groups for source in group}
        self._checkpoint.check_present(used)
        extra = sorted(name for name in self._checkpoint.files if name.startswith(prefix) and name not in used)
        extra = [name for name in extra if not _IGNORED.search(name)]
        if extra:
            raise errors.CheckpointError(
                "the model that config.json describes has no place for this tensor: it belongs to another architecture",
                field=extra[0],
            )
        return found

    def fill(self, module: torch.nn.Module, prefix: str) -> torch.nn.Module:
        """Assigns every parameter of a module from the tensors under `prefix`; the module leaves the meta device."""
        expected = module.state_dict()
        state: dict[str, torch.Tensor] = {}
        for name, groups in self.sources(module, prefix).items():
            stored = self._checkpoint.read(source for group in groups for source in group)
            tensor = _combine([[stored[source] for source in group] for group in groups])
            if tensor.shape != expected[name].shape:
                raise errors.CheckpointError(
                    f"its shape is {list(tensor.shape)} and config.json asks for {list(expected[name].shape)}: "
                    "tensors and configuration belong to different models",
                    field=prefix + name,
                )
            # A copy: the file may be replaced while the model serves.
            state[name] = tensor.to(device=self._torch_device, dtype=self._dtype, copy=True)
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
        prefix = self.lm_head_source
        if shared is None or prefix != self.embedding_prefix:
            return self.fill(module, prefix)
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
