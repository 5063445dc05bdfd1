"""A device's own KV cache bounds its answers: it says so before it is asked for more."""

from __future__ import annotations

import pathlib

import pytest
from tests.system import test_whole_models

from milliner.contract import kinds, role_config
from milliner.core import errors
from milliner.roles import reporter, runtime, whole_device
from milliner.strategies.device_only import strategy as device_only

PROMPT = test_whole_models.PROMPT


async def test_a_device_with_little_memory_is_a_model_of_a_shorter_context(tiny_model: pathlib.Path) -> None:
    config = role_config.WholeDeviceRoleConfig(
        topology="t",
        name="device",
        pool="pool",
        model=role_config.ModelFiles(path=str(tiny_model), served_name="tiny", dtype=kinds.Dtype.FLOAT32),
        layers=4,
        engine=role_config.EngineLimits(kv_cache_bytes=64 << 10, page_tokens=16),
        strategy=role_config.WholeStrategy(type=kinds.StrategyType.DEVICE_ONLY),
    )
    async with runtime.started(config, report=reporter.Reporter(role="device", name="device")) as running:
        own = await whole_device._own(config, running)
        strategy = device_only.DeviceOnly(own.ports)
        room = own.engine.capacity_tokens
        assert own.ports.model.info.max_positions == room < 256, "what clients are told, too"
        tokens, _ = await test_whole_models.answer(strategy, PROMPT, new_tokens=room - len(PROMPT))
        assert len(tokens) == room - len(PROMPT)
        with pytest.raises(errors.PromptTooLong) as refused:
            await test_whole_models.answer(strategy, PROMPT, new_tokens=room - len(PROMPT) + 1)
        assert "cloud." not in str(refused.value), "it is not the cloud that is too small"
