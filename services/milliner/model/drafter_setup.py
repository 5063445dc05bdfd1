"""What a training begins with: the drafter with its objective, the optimizers, and where they run.

Called by `drafter_training`, once per run.
"""

from __future__ import annotations

import math
import platform

import torch

from milliner.core import errors
from milliner.model import adapter as adapters
from milliner.model import drafter_config, drafter_file, drafter_objectives, drafter_start, drafter_target, medusa


def drafter_and_objective(
    config: drafter_config.TrainingConfig, target: drafter_target.FrozenTarget
) -> tuple[adapters.Adapter | medusa.MedusaHeads, drafter_objectives.Objective]:
    """A drafter with its first weights, and what it is trained towards. Raises `ConfigError` on `--start`."""
    if config.kind is drafter_file.DrafterKind.MEDUSA:
        width = target.checkpoint.hidden_size
        heads = medusa.MedusaHeads(medusa.MedusaConfig(hidden_size=width, num_heads=config.num_heads))
        return heads, drafter_objectives.MedusaObjective(heads, target)
    sizes = adapters.AdapterConfig.from_target(target.checkpoint.config, form=config.form)
    drafter = adapters.Adapter(sizes)
    if config.start is None:
        drafter_start.from_target(drafter, target)
    else:
        drafter_start.from_folder(drafter, config.start)
    return drafter, drafter_objectives.AdapterObjective(drafter, target, num_passes=config.num_passes)


def default_learning_rate(hidden_size: int) -> float:
    """Muon's peak rate: 0.01 at width 256, where 0.003 to 0.025 were tried (docs/demo-model.md, 2026-11-21).

    Weights shrink as 1 / √width where updates do not, hence the scaling; it was not tried at other widths.
    """
    return 0.01 * math.sqrt(256 / hidden_size)


def optimizers(drafter: torch.nn.Module, learning_rate: float) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for matrices (its updates scaled to AdamW's size, so that one learning rate serves both), AdamW for vectors.

    On the demo model Muon needs a fraction of AdamW's steps; docs/demo-model.md has the comparison.
    """
    matrices = [parameter for parameter in drafter.parameters() if parameter.ndim == 2]
    vectors = [parameter for parameter in drafter.parameters() if parameter.ndim != 2]
    return (
        torch.optim.Muon(matrices, lr=learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(vectors, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0),
    )


def torch_device(name: str) -> torch.device:
    """The device of that name; auto: a GPU where there is one. Raises `ConfigError`."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
    except RuntimeError as error:
        raise errors.ConfigError(f"{name!r} is no device of torch: use auto, cpu or cuda", field="--device") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise errors.ConfigError("cuda is asked for and torch sees no GPU here: use cpu", field="--device")
    return chosen


def autocast(chosen: torch.device) -> torch.autocast:
    """To bfloat16 where that pays: on GPUs and on CPUs with instructions for it."""
    fast = chosen.type == "cuda" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return torch.autocast(chosen.type, torch.bfloat16, enabled=fast)


def hardware(chosen: torch.device) -> str:
    """What a card says the drafter was trained on."""
    if chosen.type == "cuda":
        return torch.cuda.get_device_name(chosen)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
