"""Options of strategies with whole models that leave nothing to decide beside others, told as notes. Pure.

Each is valid by itself, so none is refused: a topology may be on its way from one setting to another.
"""

from __future__ import annotations

from milliner.contract import emulation, kinds, strategy
from milliner.contract import spec as spec_module

Notes = dict[str, tuple[bool, str]]  # field: whether it is set in vain, and why
_WHOLE = frozenset({"whole_model"})
_SLICES = frozenset(emulation.DeviceCompute.model_fields) - _WHOLE
_COMPUTED: dict[kinds.StrategyType, frozenset[str]] = {  # on a device, as `emulation.compute` names it
    kinds.StrategyType.HAT: _SLICES,
    kinds.StrategyType.U_SHAPE: _SLICES,
    kinds.StrategyType.PD_DEVICE: _WHOLE,
    kinds.StrategyType.DEVICE_ONLY: _WHOLE,
    kinds.StrategyType.CLOUD_ONLY: frozenset(),
}


def of(spec: spec_module.TopologySpec) -> Notes:
    """All of them, set or not."""
    kind = spec.strategy.type
    return {
        **_of_refinement(spec),
        **_of_pacing(spec),
        "cloud": (
            kind is kinds.StrategyType.DEVICE_ONLY and bool(spec.cloud.model_fields_set),
            "with DeviceOnly there is no cloud tier",
        ),
        "fallback": (
            kind is kinds.StrategyType.DEVICE_ONLY and "fallback" in spec.model_fields_set,
            "with DeviceOnly there is no cloud to lose",
        ),
        "fallback.waitSeconds": (
            kind is kinds.StrategyType.PD_DEVICE and "wait_seconds" in spec.fallback.model_fields_set,
            "devices of PDDevice do not wait for a cloud: they go on alone, or fail with onCloudLoss Fail",
        ),
        **_of_emulation(spec),
        "devicePools[].kvCacheMebibytes": (
            _COMPUTED[kind] != _WHOLE and any("kv_cache_mebibytes" in p.model_fields_set for p in spec.device_pools),
            f"devices of {kind.value} hold no whole model",
        ),
    }


def _of_refinement(spec: spec_module.TopologySpec) -> Notes:
    external, options = spec.cloud.engine.external is not None, spec.strategy.pd_device or strategy.PDDeviceOptions()
    refines = options.refinement.mode is kinds.RefinementMode.AUTO
    fixed = options.cloud_tokens.mode is kinds.CloudTokensMode.FIXED
    return {
        "strategy.pdDevice.refinement": (
            external and refines,
            "an external engine does not tell what it attends to, so prompts stay whole",
        ),
        "strategy.pdDevice.refinement.mode": (
            fixed and refines and not external,
            "with cloudTokens.mode Fixed devices compute whole prompts",
        ),
        "strategy.pdDevice.refinement.minKeepPercent": (
            not refines and "min_keep_percent" in options.refinement.model_fields_set,
            "refinement.mode is Disabled",
        ),
    }


def _of_pacing(spec: spec_module.TopologySpec) -> Notes:
    """Tokens are shown no further apart than the objective says, whatever pacing allows."""
    pacing = (spec.strategy.pd_device or strategy.PDDeviceOptions()).pacing
    aim_ms = spec.objectives.time_per_output_token_milliseconds
    why = f"objectives.timePerOutputTokenMilliseconds ({aim_ms}) is less and holds"
    return {
        f"strategy.pdDevice.pacing.{field}": (name in pacing.model_fields_set and wanted_ms > aim_ms, why)
        for field, name, wanted_ms in (
            ("minIntervalMilliseconds", "min_interval_milliseconds", pacing.min_interval_milliseconds),
            ("maxIntervalMilliseconds", "max_interval_milliseconds", pacing.max_interval_milliseconds),
        )
    }


def _of_emulation(spec: spec_module.TopologySpec) -> Notes:
    """Durations of what the strategy's devices do not compute."""
    kind = spec.strategy.type
    given = {
        name
        for pool in spec.device_pools
        if pool.emulation is not None and pool.emulation.compute is not None
        for name in pool.emulation.compute.model_fields_set
    }
    computed = _COMPUTED[kind]
    return {
        f"devicePools[].emulation.compute.{info.alias or name}": (
            name in given and name not in computed,
            f"devices of {kind.value} compute nothing of the kind",
        )
        for name, info in emulation.DeviceCompute.model_fields.items()
    }
