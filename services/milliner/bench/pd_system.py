"""The tiers of preset pd for real: a cloud process, a link process, and the device's model in this process.

Both compute in the type that this processor multiplies fastest (`fast_dtype`): only durations are measured here.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import secrets
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import torch

from milliner.bench import cells, cloud_process, fast_dtype, pd_preset
from milliner.contract import emulation, kinds, role_config
from milliner.core import clock, generation, time_slices, types
from milliner.engine import engine as engines
from milliner.engine import executor, generation_scheduler, limits, whole_loading, whole_model
from milliner.strategies import cloud_tokens, options, whole_request
from milliner.strategies.device_only import strategy as device_only
from milliner.strategies.pd_device import profile
from milliner.strategies.pd_device import strategy as pd_device
from milliner.wire import client, client_session, link_process, link_schedule

_CONNECT_WITHIN_S = 30.0  # arbitrary: a connection over the emulated link takes tens of milliseconds
_KV_BYTES = 1 << 30
# Of the saturated cloud's clients, who wait for others' whole answers: three rounds of 1,024 tokens, slowed down.
_PATIENT = client_session.Timeouts(busy_s=3600.0)
_PROMISED_S = 1e6  # the saturated cloud of the bench refuses nobody (arbitrary)


@dataclasses.dataclass(frozen=True, slots=True)
class PDSystem:
    """Both tiers, with whole prompts and with refined ones. `direct` reaches the cloud without the emulated link."""

    device_only: device_only.DeviceOnly
    whole_prompts: pd_device.PDDevice
    refined_prompts: pd_device.PDDevice
    direct: client.GrpcTokenTransport
    cloud: cloud_process.CloudProcess
    worker: executor.ComputeExecutor
    info: generation.WholeModelInfo
    dtype: kinds.Dtype

    async def counters(self) -> tuple[cells.ComputeCounters, cells.ComputeCounters]:
        """What the device's and the cloud's executors have counted until now."""
        return cells.ComputeCounters.of(self.worker), await self.cloud.counters()


@contextlib.asynccontextmanager
async def running(model: Path, preset: pd_preset.PDPreset) -> AsyncIterator[PDSystem]:
    """Both tiers, with the model whole on each. Raises what loading and connecting raise."""
    time_slices.for_event_loop()
    time = clock.LoopClock()
    async with contextlib.AsyncExitStack() as stack:
        worker = executor.ComputeExecutor(name="bench device", torch_threads=1)
        stack.callback(worker.close)
        config = limits.EngineConfig(kv_cache_bytes=_KV_BYTES, max_frame_tokens=2048)
        dtype, _ = await worker.run(fast_dtype.choose)
        loaded, _ = await worker.run(
            lambda: whole_loading.load(
                model, dtype=fast_dtype.TORCH[dtype], torch_device=torch.device("cpu"), config=config
            )
        )
        engine = engines.Engine(
            loaded.backend,
            config=config,
            executor=worker,
            clock=time,
            cost=preset.device,
            policy=generation_scheduler.FirstCome(max_sequences=preset.sequences),
        )
        group = await stack.enter_async_context(asyncio.TaskGroup())
        group.create_task(engine.run())
        stack.push_async_callback(engine.stop)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="milliner-bench-")))
        file = folder / "prefill.json"
        file.write_text(_cloud_config(model, loaded.info, preset, dtype).to_json())
        cloud = await stack.enter_async_context(cloud_process.running(file, environment={}, role="prefill"))
        conditions = link_schedule.LinkConditions(
            uplink_bytes_per_s=preset.uplink_bytes_per_s,
            downlink_bytes_per_s=preset.downlink_bytes_per_s,
            round_trip_s=preset.round_trip_s,
            jitter_s=preset.jitter_s,
            seed=0,
        )
        link = await stack.enter_async_context(link_process.LinkProcess(cloud.host, cloud.port, conditions))
        linked = await stack.enter_async_context(client.GrpcTokenTransport([f"127.0.0.1:{link.port}"]))
        direct = await stack.enter_async_context(
            client.GrpcTokenTransport([f"{cloud.host}:{cloud.port}"], timeouts=_PATIENT)
        )
        await linked.wait_ready(_CONNECT_WITHIN_S)
        device = whole_request.DevicePorts(
            clock=time,
            model=whole_model.EngineModel(
                engine, codec=loaded.codec, info=loaded.info, origin=types.TokenOrigin.DEVICE
            ),
        )
        scope = cloud_tokens.CloudPorts(
            clock=time, transport=linked, info=loaded.info, new_session_id=lambda: secrets.token_hex(16)
        )
        wanted = options.PDDeviceOptions(max_interval_s=preset.tpot_s, first_token_s=preset.ttft_s)
        measured = profile.Profile()
        handing_over = pd_device.PDDevice(scope, device, wanted, measured=measured)
        refining = dataclasses.replace(wanted, least_kept=preset.least_kept)
        await handing_over.measure()
        yield PDSystem(
            device_only=device_only.DeviceOnly(device),
            whole_prompts=handing_over,
            refined_prompts=pd_device.PDDevice(scope, device, refining, measured=measured),
            direct=direct,
            cloud=cloud,
            worker=worker,
            info=loaded.info,
            dtype=dtype,
        )


def _cloud_config(
    model: Path, info: generation.WholeModelInfo, preset: pd_preset.PDPreset, dtype: kinds.Dtype
) -> role_config.PrefillRoleConfig:
    layers = emulation.CallCost(
        fixed_microseconds=round(preset.cloud.fixed_s * 1e6),
        per_token_microseconds=round(preset.cloud.per_token_s * 1e6),
    )
    return role_config.PrefillRoleConfig(
        topology="bench",
        name="bench-prefill",
        model=role_config.ModelFiles(path=str(model), served_name="bench", dtype=dtype, digest=info.model_digest),
        layers=info.num_layers,
        torch_threads=1,
        engine=role_config.EngineLimits(
            max_batch_tokens=2048,
            max_frame_tokens=2048,
            max_batch_sequences=preset.sequences,
            max_promised_s=_PROMISED_S,
            kv_cache_bytes=_KV_BYTES,
        ),
        emulation=emulation.CloudEmulation(compute=emulation.CloudCompute(layers=layers)),
    )
