"""A whole model on an engine: what the cloud's `prefill` role and a device of its own model both load and run."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pathlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from milliner.contract import kinds, model_checks, role_config
from milliner.core import compute, errors, generation, ports, types
from milliner.engine import engine as engines
from milliner.engine import executor, generation_scheduler, limits, scheduler, whole_model

if TYPE_CHECKING:
    from milliner.engine import slice_backend, token_codec


@dataclasses.dataclass(frozen=True, slots=True)
class Loaded:
    """What reading the files gives."""

    backend: slice_backend.SliceBackend
    codec: token_codec.TokenCodec
    info: generation.WholeModelInfo


def load(model: role_config.ModelFiles, *, accelerator: kinds.AcceleratorChoice, config: limits.EngineConfig) -> Loaded:
    """Reads the whole model. On the executor's thread.

    Raises `CheckpointError`, `UnsupportedModel`, or `ConfigError` where the pinned digest is another's.
    """
    from milliner.engine import slice_backend, token_codec
    from milliner.model import checkpoint, digest, tokenizer_digest
    from milliner.model import slice as slices
    from milliner.roles import accelerators

    folder = pathlib.Path(model.path)
    opened = checkpoint.Checkpoint.open(folder)
    found = digest.model_digest(folder)
    for problem in model_checks.check_digest(pinned=model.digest, found=found):
        raise errors.ConfigError(problem.message, field=problem.path)
    spec = slices.SliceSpec(0, opened.num_layers, embedding=True, lm_head=True)
    loaded = slices.load_slice(
        opened, spec, dtype=accelerators.dtype(model.dtype), torch_device=accelerators.torch_device(accelerator)
    )
    info = generation.WholeModelInfo(
        model_digest=found,
        tokenizer_digest=tokenizer_digest.tokenizer_digest(folder),
        num_layers=opened.num_layers,
        vocab_size=loaded.vocab_size,
        max_positions=loaded.max_positions,
    )
    return Loaded(slice_backend.SliceBackend(loaded, config=config), token_codec.TokenCodec(loaded), info)


def engine(
    loaded: Loaded,
    *,
    config: limits.EngineConfig,
    policy: scheduler.SchedulingPolicy,
    worker: executor.ComputeExecutor,
    cost: compute.BatchCost | None,
    clock: ports.Clock,
) -> engines.Engine:
    """An engine over it that batches sequences by `policy`."""
    return engines.Engine(loaded.backend, config=config, executor=worker, clock=clock, cost=cost, policy=policy)


def model(loaded: Loaded, running: engines.Engine, *, origin: types.TokenOrigin) -> whole_model.EngineModel:
    """The model behind its port."""
    return whole_model.EngineModel(running, codec=loaded.codec, info=loaded.info, origin=origin)


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
