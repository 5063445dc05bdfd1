"""A whole model on an engine: what the cloud's `prefill` role and a device of its own model both load and run."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from milliner.contract import kinds, model_checks, role_config
from milliner.core import compute, errors, types
from milliner.engine import engine as engines
from milliner.engine import generation_scheduler, limits, scheduler, whole_model
from milliner.roles import runtime

if TYPE_CHECKING:
    from milliner.engine import whole_loading


def load(
    model: role_config.ModelFiles, *, accelerator: kinds.AcceleratorChoice, config: limits.EngineConfig
) -> whole_loading.Loaded:
    """Reads the whole model. On the executor's thread.

    Raises `CheckpointError`, `UnsupportedModel`, or `ConfigError` where the pinned digest is another's.
    """
    from milliner.engine import whole_loading
    from milliner.roles import accelerators

    loaded = whole_loading.load(
        pathlib.Path(model.path),
        dtype=accelerators.dtype(model.dtype),
        torch_device=accelerators.torch_device(accelerator),
        config=config,
    )
    for problem in model_checks.check_digest(pinned=model.digest, found=loaded.info.model_digest):
        raise errors.ConfigError(problem.message, field=problem.path)
    return loaded


def engine(
    loaded: whole_loading.Loaded,
    *,
    config: limits.EngineConfig,
    policy: scheduler.SchedulingPolicy,
    cost: compute.BatchCost | None,
    running: runtime.Runtime,
) -> engines.Engine:
    """An engine over it that batches sequences by `policy`."""
    return engines.Engine(
        loaded.backend, config=config, executor=running.worker, clock=running.clock, cost=cost, policy=policy
    )


def model(
    loaded: whole_loading.Loaded, running: engines.Engine, *, origin: types.TokenOrigin
) -> whole_model.EngineModel:
    """The model behind its port."""
    return whole_model.EngineModel(running, codec=loaded.codec, info=loaded.info, origin=origin, refiner=loaded.refiner)


def policy(scheduler_type: kinds.SchedulerType, *, max_sequences: int) -> scheduler.SchedulingPolicy:
    """The order in which sequences are served."""
    if scheduler_type is kinds.SchedulerType.SKIP_JOIN_MLFQ:
        return generation_scheduler.SkipJoinFeedbackQueue(max_sequences=max_sequences)
    return generation_scheduler.FirstCome(max_sequences=max_sequences)


@contextlib.asynccontextmanager
async def running(one: engines.Engine) -> AsyncIterator[None]:
    """Runs the engine for as long as the block; if the engine fails, so does the block."""
    async with asyncio.TaskGroup() as group:
        group.create_task(one.run())
        try:
            yield
        finally:
            await one.stop()
