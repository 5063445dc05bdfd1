"""Where an adapter's training starts: at the target's own layer s, whose input it shares, and at its final norm.

Layer s reads the same hidden states as the adapter, so its attention already looks at the right places. What a family
does not have in the same shape (fused projections, experts, biases, query norms) starts at random instead.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import safetensors
import torch
from safetensors import torch as safetensors_torch
from torch import nn

from milliner.core import errors
from milliner.model import adapter as adapters
from milliner.model import drafter_file, drafter_target

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")
_NORMS = {"input_norm": "input_layernorm", "post_norm": "post_attention_layernorm"}


@torch.no_grad()
def from_target(adapter: adapters.Adapter, target: drafter_target.FrozenTarget) -> None:
    """Copies what fits into a fresh adapter; deep states start without influence."""
    layer = target.cloud.layers.layers[0]
    for names, inside in ((_ATTENTION, "self_attn"), (_MLP, "mlp")):
        for name in names:
            source = getattr(getattr(layer, inside, None), name, None)
            wanted = getattr(adapter, name, None)
            if isinstance(source, nn.Linear) and wanted is not None and source.weight.shape == wanted.weight.shape:
                wanted.weight.copy_(source.weight.float())
    for name, theirs in _NORMS.items():
        norm = getattr(layer, theirs, None)
        if norm is not None and hasattr(adapter, name):
            getattr(adapter, name).weight.copy_(_effective_weight(norm, target))
    # States then begin in the same space as deep states.
    adapter.output_norm.weight.copy_(_effective_weight(target.final_norm, target))
    if adapter.sees_deep_states:
        adapter.deep_proj.weight.zero_()


@torch.no_grad()
def from_folder(adapter: adapters.Adapter, folder: Path) -> None:
    """Copies an earlier adapter's weights, of this or another form and model, where names and shapes are the same.

    Raises `DrafterMismatch` where nothing fits, `ConfigError` for a folder that cannot be read.
    """
    try:
        tensors = safetensors_torch.load_file(str(folder / drafter_file.WEIGHTS_FILE))
    except (OSError, safetensors.SafetensorError) as error:
        raise errors.ConfigError(f"{folder} holds no adapter that can be read: {error}", field="--start") from error
    fitting = {
        name: t for name, t in adapter.state_dict().items() if name in tensors and tensors[name].shape == t.shape
    }
    if not fitting:
        raise errors.DrafterMismatch(f"{folder} has no weights of this adapter's shapes", field="--start")
    for name, tensor in fitting.items():
        tensor.copy_(tensors[name].float())
    if adapter.sees_deep_states and "deep_proj.weight" not in fitting:
        adapter.deep_proj.weight.zero_()


def _effective_weight(
    norm: Callable[[torch.Tensor], torch.Tensor], target: drafter_target.FrozenTarget
) -> torch.Tensor:
    """What a norm multiplies by, [D], however its family writes it.

    Alternating signs have mean 0 and norm 1, so that norms with and without mean subtraction leave them; the difference
    of both signs cancels a bias.
    """
    signs = torch.ones(1, target.shallow.hidden_size, device=target.torch_device, dtype=target.shallow.dtype)
    signs[:, 1::2] = -1.0
    return ((norm(signs) - norm(-signs)) / 2 * signs)[0].float()
