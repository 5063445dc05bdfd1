"""The bench's two tiers for real: a cloud process, a link process, and the device's submodels in this process.

Compute and link take what the preset says. One accelerator (one executor) serves all variants of the device; each
drafter kind has a device of its own over the same shallow slice, so that no strategy carries what it does not use.
Implements `runner.System`.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from milliner.bench import cells, cloud_process, device_tier, generators, plan, presets
from milliner.contract import emulation, kinds, role_config
from milliner.core import clock, compute, time_slices
from milliner.engine import executor as executors
from milliner.engine.device import device_model
from milliner.strategies import base
from milliner.wire import client, link_process, link_schedule

_CONNECT_WITHIN_S = 30.0  # arbitrary: a connection over the emulated link takes tens of milliseconds
_SEED = 0  # of the link's jitter


class EmulatedSystem:
    """See the module. Made by `running`."""

    def __init__(
        self,
        *,
        worker: executors.ComputeExecutor,
        cloud: cloud_process.CloudProcess,
        link: link_process.LinkProcess,
        transport: client.GrpcTransport,
        devices: dict[str, device_model.DeviceModel],
    ) -> None:
        self.clock = clock.LoopClock()
        self.link = link
        self._worker = worker
        self._cloud = cloud
        self._generators = generators.Generators(clock=self.clock, transport=transport, devices=devices)

    def generator(self, variant: plan.Variant) -> base.Generator:
        """The variant's generator; one for the whole run, since a device keeps what it has learnt."""
        return self._generators.of(variant)

    async def counters(self, variant: plan.Variant) -> tuple[cells.ComputeCounters, cells.ComputeCounters]:
        return cells.ComputeCounters.of(self._worker), await self._cloud.counters()


@contextlib.asynccontextmanager
async def running(
    files: device_tier.Files, *, preset: presets.Preset, strategies: tuple[plan.StrategyName, ...], torch_threads: int
) -> AsyncIterator[EmulatedSystem]:
    """Both tiers for `preset`, which must be for the model's width. Raises what loading and connecting raise."""
    time_slices.for_event_loop()
    async with contextlib.AsyncExitStack() as stack:
        worker = executors.ComputeExecutor(name="bench device", torch_threads=torch_threads)
        stack.callback(worker.close)
        devices, _ = await worker.run(
            lambda: device_tier.load(files, preset=preset, strategies=strategies, worker=worker)
        )
        info = next(iter(devices.values())).info
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="milliner-bench-")))
        config = folder / "cloud.json"
        config.write_text(_cloud_config(files, info=info, preset=preset, torch_threads=torch_threads).to_json())
        cloud = await stack.enter_async_context(cloud_process.running(config, environment={}))
        conditions = link_schedule.LinkConditions(
            uplink_bytes_per_s=preset.link.uplink_bytes_per_s,
            downlink_bytes_per_s=preset.link.downlink_bytes_per_s,
            round_trip_s=preset.link.round_trip_s,
            jitter_s=preset.link.jitter_s,
            seed=_SEED,
        )
        link = await stack.enter_async_context(link_process.LinkProcess(cloud.host, cloud.port, conditions))
        transport = await stack.enter_async_context(client.GrpcTransport([f"127.0.0.1:{link.port}"]))
        await transport.wait_ready(_CONNECT_WITHIN_S)
        yield EmulatedSystem(worker=worker, cloud=cloud, link=link, transport=transport, devices=devices)


def _cloud_config(
    files: device_tier.Files, *, info: compute.DeviceInfo, preset: presets.Preset, torch_threads: int
) -> role_config.CloudRoleConfig:
    layers = emulation.CallCost(
        fixed_microseconds=round(preset.cloud.fixed_s * 1e6),
        per_token_microseconds=round(preset.cloud.per_token_s * 1e6),
    )
    return role_config.CloudRoleConfig(
        topology="bench",
        name="bench-cloud",
        model=role_config.ModelFiles(
            path=str(files.model), served_name="bench", dtype=kinds.Dtype.FLOAT32, digest=info.model_digest
        ),
        torch_threads=torch_threads,
        slice=role_config.SliceBounds(start=info.split_layer, end=info.cloud_slice_end),
        engine=role_config.EngineLimits(max_batch_tokens=info.max_positions, max_frame_tokens=info.max_positions),
        emulation=emulation.CloudEmulation(compute=emulation.CloudCompute(layers=layers)),
    )
