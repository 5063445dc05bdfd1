"""Builds the strategy that a role's or a bench's options name."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from milliner.core import compute, errors, ports
from milliner.strategies import base, openings, request_scope
from milliner.strategies import options as strategy_options
from milliner.strategies.hat import strategy as hat
from milliner.strategies.ushape import strategy as ushape

SESSION_ID_BYTES = 16  # 128 random bits: knowing the id is the right to the session


def build_generator(
    options: strategy_options.HatOptions | strategy_options.UShapeOptions,
    *,
    clock: ports.Clock,
    transport: ports.CloudTransport,
    device: compute.DeviceCompute,
    new_session_id: Callable[[], str] = lambda: secrets.token_hex(SESSION_ID_BYTES),
    max_open_wait_s: float = openings.MAX_WAIT_S,
) -> base.Generator:
    """A generator for `options`; raises `ConfigError` where the device lacks what they ask for.

    `max_open_wait_s`: how long a request may wait for room in the cloud.
    """
    scope = request_scope.StrategyPorts(
        clock=clock,
        transport=transport,
        device=device,
        new_session_id=new_session_id,
        codec=options.codec,
        recovery=options.recovery,
        openings=openings.Openings(max_wait_s=max_open_wait_s),
    )
    if isinstance(options, strategy_options.HatOptions):
        return hat.Hat(scope, options)
    if options.medusa and device.info.num_medusa_heads == 0:
        raise errors.ConfigError(
            "strategy.uShape.heads is needed for Medusa drafting: name a folder written by "
            "`milliner train-adapter --kind medusa`",
            field="strategy.uShape.heads",
        )
    return ushape.UShape(scope, options)
