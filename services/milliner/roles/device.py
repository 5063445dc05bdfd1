"""The device role of split strategies: a strategy over the device's submodels and the wire. Wiring only; what it does
then is `answering`'s.
"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

from milliner.api import tokenizer
from milliner.contract import model_checks, role_config, role_events
from milliner.core import errors
from milliner.engine import executor
from milliner.roles import answering, device_options, links, reporter, runtime
from milliner.strategies import factory
from milliner.wire import client, codecs, tls

if TYPE_CHECKING:
    from milliner.engine.device import device_model, submodels


async def run(config: role_config.DeviceRoleConfig, *, report: reporter.Reporter) -> None:
    """Serves until SIGTERM. Raises `ConfigError` and its like for what is wrong with configuration or files, and
    `UnavailableError` when an emulated link cannot be kept up."""
    options = device_options.strategy_options(config)
    identity = tls.Identity(config.tls) if config.tls is not None else None
    async with runtime.started(config, report=report) as running:
        report.say(role_events.RoleEventKind.LOADING, message=f"loading layers [0, {config.split.split_layer})")
        (device, codec), _ = await running.worker.run(lambda: _load(config, running.worker))
        transport = client.GrpcTransport(
            config.cloud_endpoints, identity=identity, route=await links.route(config, running.stack)
        )
        running.stack.push_async_callback(transport.close)
        found = answering.Answering(
            generator=factory.build_generator(options, clock=running.clock, transport=transport, device=device),
            codec=codec,
            model_digest=device.info.model_digest,
            vocab_size=device.info.vocab_size,
            max_positions=device.info.max_positions,
            kv_used_share=lambda: device.used_share,
            cloud=transport,
            cloud_positions=lambda: transport.max_positions,
            on_trouble=lambda heard: setattr(transport, "on_trouble", heard),
        )
        await answering.serve(found, config, running=running)


def _load(
    config: role_config.DeviceRoleConfig, worker: executor.ComputeExecutor
) -> tuple[device_model.DeviceModel, tokenizer.HuggingFaceTokenizer]:
    """Submodels and tokenizer. On the executor's thread; reads only the device's tensors."""
    from milliner.engine.device import device_model
    from milliner.roles import accelerators

    files = device_model.DeviceFiles(
        model=pathlib.Path(config.model.path),
        split_layer=config.split.split_layer,
        tail_layers=config.split.tail_layers,
        adapter=_path(config.strategy.adapter_path),
        medusa=_path(config.strategy.heads_path),
    )
    modules = device_model.load_submodels(
        files,
        dtype=accelerators.dtype(config.model.dtype),
        torch_device=accelerators.torch_device(config.accelerator),
    )
    for problem in model_checks.check_digest(pinned=config.model.digest, found=modules.info.model_digest):
        raise errors.ConfigError(problem.message, field=problem.path)
    device = device_model.DeviceModel(
        modules,
        codecs=_codecs(),
        executor=worker,
        costs=device_options.device_costs(config),
        max_sessions=config.max_concurrent_requests,
    )
    return device, tokenizer.HuggingFaceTokenizer.load(files.model)


def _codecs() -> submodels.Codecs:
    from milliner.engine.device import submodels

    return submodels.Codecs(encode=codecs.encode, decode=codecs.decode, bytes_per_position=codecs.bytes_per_position)


def _path(text: str | None) -> pathlib.Path | None:
    return None if text is None else pathlib.Path(text)
