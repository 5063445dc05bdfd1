"""The cloud's role for whole models: it computes prompts and gives the tokens that follow. Wiring only.

Life as of every cloud role (`cloud_serving`). Prompts reach it in clear, as token ids.
"""

from __future__ import annotations

import contextlib

from milliner.api import health
from milliner.contract import role_config, role_events
from milliner.core import clock, types
from milliner.engine import executor, token_service
from milliner.roles import cloud, cloud_serving, http_server, reporter, shutdown, whole_models
from milliner.telemetry import cloud_metrics
from milliner.wire import tls


async def run(config: role_config.PrefillRoleConfig, *, report: reporter.Reporter) -> None:
    """Serves until SIGTERM. Raises `ConfigError` and its like for what is wrong with configuration or files."""
    worker = executor.ComputeExecutor(name=f"compute {config.name}", torch_threads=config.torch_threads)
    told, time = health.Health(), clock.LoopClock()
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(worker.close)
        identity = tls.Identity(config.tls) if config.tls is not None else None
        await http_server.serve_health(told, config.health_port, stack)
        report.say(role_events.RoleEventKind.LOADING, message="loading the whole model")
        limits = cloud.engine_config(config.engine)
        loaded, _ = await worker.run(
            lambda: whole_models.load(config.model, accelerator=config.accelerator, config=limits)
        )
        stopping = shutdown.stop_event()
        engine = whole_models.engine(
            loaded,
            config=limits,
            policy=whole_models.policy(config.scheduler, max_sequences=config.engine.max_batch_sequences),
            worker=worker,
            cost=cloud.compute_cost(config.emulation),
            clock=time,
        )
        service = token_service.EngineTokenService(
            whole_models.model(loaded, engine, origin=types.TokenOrigin.CLOUD),
            load=engine.load,
            max_positions=lambda: min(loaded.info.max_positions, engine.capacity_tokens),
        )
        await cloud_serving.serve(
            cloud_serving.Serving(
                what="the whole model",
                model_digest=loaded.info.model_digest,
                engine=engine,
                metrics=cloud_metrics.CloudMetrics(clock=time),
                tokens=service,
            ),
            config,
            engine_limits=config.engine,
            worker=worker,
            identity=identity,
            told=told,
            stopping=stopping,
            report=report,
            stack=stack,
            clock=time,
        )
    report.say(role_events.RoleEventKind.STOPPED)
