"""The cloud's role for whole models: it computes prompts and gives the tokens that follow. Wiring only.

Life as of every cloud role (`cloud_serving`). Prompts reach it in clear, as token ids.
"""

from __future__ import annotations

from milliner.contract import role_config, role_events
from milliner.core import types
from milliner.engine import cloud_seconds, token_service
from milliner.roles import cloud, cloud_serving, reporter, runtime, whole_models
from milliner.telemetry import cloud_metrics
from milliner.wire import tls


async def run(config: role_config.PrefillRoleConfig, *, report: reporter.Reporter) -> None:
    """Serves until SIGTERM. Raises `ConfigError` and its like for what is wrong with configuration or files."""
    identity = tls.Identity(config.tls) if config.tls is not None else None
    async with runtime.started(config, report=report) as running:
        report.say(role_events.RoleEventKind.LOADING, message="loading the whole model")
        limits = cloud.engine_config(config.engine)
        loaded, _ = await running.worker.run(
            lambda: whole_models.load(config.model, accelerator=config.accelerator, config=limits)
        )
        engine = whole_models.engine(
            loaded,
            config=limits,
            policy=whole_models.policy(config.scheduler, max_sequences=config.engine.max_batch_sequences),
            cost=cloud.compute_cost(config.emulation),
            running=running,
        )
        service = token_service.EngineTokenService(
            whole_models.model(loaded, engine, origin=types.TokenOrigin.CLOUD),
            load=engine.load,
            max_positions=lambda: min(loaded.info.max_positions, engine.capacity_tokens),
            seconds=cloud_seconds.CloudSeconds(
                most_s=config.engine.max_promised_s, sequences=config.engine.max_batch_sequences, load=engine.load
            ),
        )
        serving = cloud_serving.Serving(
            what="the whole model",
            model_digest=loaded.info.model_digest,
            engine=engine,
            metrics=cloud_metrics.CloudMetrics(clock=running.clock),
            tokens=service,
        )
        await cloud_serving.serve(serving, config, engine_limits=config.engine, identity=identity, running=running)
