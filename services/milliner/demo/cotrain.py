"""The finish of the target's training: with a draft layer beside it, so that its shallow layers serve drafting too.

A model whose training knows nothing of drafting hides from its first layers what its last ones will say: an adapter of
one layer then agrees with it in about half of the places (docs/demo-model.md). Models that are served speculatively are
therefore often finished with an early exit in view (LayerSkip, arXiv 2404.16710). Here a draft layer reads layer s of
the target and learns its distribution; its gradient also reaches the layers below s, and a share of it the target
itself, which gives way where it was undecided. The draft layer is where the adapters' own training starts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from milliner.demo import network
from milliner.model import adapter as adapters


@dataclass(frozen=True, slots=True)
class CotrainWeights:
    """Weight of the divergence between target and draft, and the share of it that moves the target's own choices."""

    divergence: float = 1.5
    on_target: float = 1.0


class CotrainedNetwork(nn.Module):
    """A target with a draft layer at `split_layer`; `forward` gives the joint loss of [B, T] ids and next ids."""

    def __init__(self, target: network.Network, *, split_layer: int, weights: CotrainWeights) -> None:
        super().__init__()
        self.target = target
        self.split_layer = split_layer
        self.weights = weights
        self.draft = network.Layer(target.shape)
        self.draft.load_state_dict(target.layers[split_layer].state_dict())
        self.draft_norm = nn.Parameter(target.norm.detach().clone())
        self._losses = joint_losses
        self.last: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def compile_parts(self) -> None:
        """Compiles as `Network.compile_parts` does."""
        self.target.compile_parts()
        self.draft.compile(dynamic=False)
        self._losses = torch.compile(joint_losses, dynamic=False)

    def forward(self, ids: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
        target, eps = self.target, self.target.shape.rms_norm_eps
        cos, sin = target.rope(ids.shape[1])
        hidden = target.embedding(ids)
        for layer in target.layers[: self.split_layer]:
            hidden = layer(hidden, cos, sin)
        width = (hidden.shape[-1],)
        drafted = functional.rms_norm(self.draft(hidden, cos, sin), width, self.draft_norm, eps)
        for layer in target.layers[self.split_layer :]:
            hidden = layer(hidden, cos, sin)
        final = functional.rms_norm(hidden, width, target.norm, eps)
        loss, divergence, agreement = self._losses(
            final, drafted, target.embedding.weight, following, self.weights.on_target
        )
        self.last = (float(loss.detach()), float(divergence.detach()), float(agreement))
        return loss + self.weights.divergence * divergence


def joint_losses(
    final: torch.Tensor, drafted: torch.Tensor, weight: torch.Tensor, following: torch.Tensor, on_target: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The target's loss, KL(target, draft) in nats, and the share of places where both choose the same token.

    `final`, `drafted` [B, T, D] are normed; lm_head is frozen for the draft, as it will be in serving.
    """
    logits = (final @ weight.t()).flatten(0, 1).float()  # [N, V]
    drafts = (drafted @ weight.detach().t()).flatten(0, 1).float()
    loss = functional.cross_entropy(logits, following.reshape(-1))
    towards = on_target * logits + (1.0 - on_target) * logits.detach()  # the same values, a share of the gradient
    log_p, log_q = towards.log_softmax(-1), drafts.log_softmax(-1)
    divergence = (log_p.exp() * (log_p - log_q)).sum(-1).mean()
    return loss, divergence, (logits.argmax(-1) == drafts.argmax(-1)).float().mean()


def as_adapter(trained: CotrainedNetwork) -> adapters.Adapter:
    """The draft layer as an adapter of form `Layer`: where training of the shipped adapters starts."""
    shape, layer = trained.target.shape, trained.draft
    queries, keys = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
    made = adapters.Adapter(
        adapters.AdapterConfig(
            form=adapters.AdapterForm.LAYER,
            hidden_size=shape.hidden_size,
            num_attention_heads=shape.num_attention_heads,
            num_key_value_heads=shape.num_key_value_heads,
            head_dim=shape.head_dim,
            intermediate_size=shape.intermediate_size,
            rope_theta=shape.rope_theta,
            rms_norm_eps=shape.rms_norm_eps,
        )
    )
    query, key, value = layer.qkv.weight.split([queries, keys, keys])
    gate, up = layer.gate_up.weight.split(shape.intermediate_size)
    weights = {
        "input_norm": layer.input_norm,
        "q_proj": query,
        "k_proj": key,
        "v_proj": value,
        "o_proj": layer.output.weight,
        "post_norm": layer.post_norm,
        "gate_proj": gate,
        "up_proj": up,
        "down_proj": layer.down.weight,
        "output_norm": trained.draft_norm,
    }
    made.load_state_dict({f"{name}.weight": weight.detach().clone() for name, weight in weights.items()})
    return made
