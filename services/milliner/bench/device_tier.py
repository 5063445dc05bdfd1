"""The device's submodels as the bench runs them: one device for each drafter kind over the same shallow slice.

No strategy carries what it does not use, and every call takes what the preset says. Called by `emulated_system`, where
time is real, and by `modelled.real_model`, where it is virtual; loading blocks and belongs on the executor's thread.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from milliner.bench import plan, presets, variants
from milliner.engine import executor as executors
from milliner.engine.device import costs, device_model, submodels
from milliner.model import adapter as adapters
from milliner.wire import codecs

_MAX_SESSIONS = 4  # one user; room for a session whose end is still on its way


@dataclasses.dataclass(frozen=True, slots=True)
class Files:
    """What the bench runs: a checkpoint with an adapter and Medusa heads of the same split."""

    model: Path
    split_layer: int
    adapter: Path | None
    adapter_form: str
    medusa: Path | None


def device_of(strategy: plan.StrategyName) -> str:
    """Which of the devices a strategy runs on."""
    if variants.drafts_with_adapter(strategy):
        return "adapter"
    return "medusa" if strategy is plan.StrategyName.UMEDUSA else "plain"


def load(
    files: Files,
    *,
    preset: presets.Preset,
    strategies: tuple[plan.StrategyName, ...],
    worker: executors.ComputeExecutor,
) -> dict[str, device_model.DeviceModel]:
    """The devices that the strategies need, over one set of files. On the executor's thread."""
    needed = {device_of(strategy) for strategy in strategies}
    loaded = device_model.load_submodels(
        device_model.DeviceFiles(
            model=files.model,
            split_layer=files.split_layer,
            adapter=files.adapter if "adapter" in needed else None,
            medusa=files.medusa if "medusa" in needed else None,
        ),
        dtype=torch.float32,
        torch_device=torch.device("cpu"),
    )
    return {
        name: device_model.DeviceModel(
            _only(loaded, name),
            codecs=submodels.Codecs(
                encode=codecs.encode, decode=codecs.decode, bytes_per_position=codecs.bytes_per_position
            ),
            executor=worker,
            costs=_device_costs(files, preset),
            max_sessions=_MAX_SESSIONS,
        )
        for name in sorted(needed)
    }


def _only(loaded: submodels.Submodels, name: str) -> submodels.Submodels:
    """The submodels with no drafter but the named kind."""
    drafter = loaded.drafter if name == "adapter" else None
    medusa = loaded.medusa if name == "medusa" else None
    info = dataclasses.replace(
        loaded.info,
        drafts=drafter is not None,
        num_medusa_heads=loaded.info.num_medusa_heads if medusa is not None else 0,
    )
    return dataclasses.replace(loaded, drafter=drafter, medusa=medusa, info=info)


def _device_costs(files: Files, preset: presets.Preset) -> costs.DeviceCosts:
    device = preset.device
    attention_only = files.adapter_form == adapters.AdapterForm.ATTENTION
    return costs.DeviceCosts(
        shallow=device.shallow,
        adapter=device.adapter_attention if attention_only else device.adapter_layer,
        head=device.head,
        medusa=device.medusa,
        per_branch_s=device.per_branch_s,
    )
