"""What the device role is wired from: options, stopping, the HTTP server's socket, errors of a group."""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import AsyncGenerator

import httpx
import pytest
from starlette import applications

from milliner.contract import emulation, kinds, operations, role_config, strategy
from milliner.core import errors, types
from milliner.roles import __main__ as entry
from milliner.roles import device_options, http_server, stopping
from milliner.strategies import options
from milliner.telemetry import record


def config(**changes: object) -> role_config.DeviceRoleConfig:
    base = role_config.DeviceRoleConfig(
        topology="t",
        name="t-device-p-0",
        pool="p",
        model=role_config.ModelFiles(path="m", served_name="m", dtype=kinds.Dtype.FLOAT32),
        split=role_config.Split(layers=8, split_layer=2),
        strategy=role_config.DeviceStrategy(
            type=kinds.StrategyType.HAT,
            adapter_path="a",
            drafting=strategy.Drafting(max_tokens=5, min_confidence_percent=40, parallel_branches=3),
            chunking=strategy.Chunking(mode=kinds.ChunkingMode.FIXED, tokens=33, min_tokens=2, max_tokens=99),
            prompt_codec=kinds.Codec.INT4,
            exact_tail_tokens=7,
            decode_codec=kinds.Codec.FLOAT16,
        ),
        cloud_endpoints=("127.0.0.1:1",),
    )
    return base.model_copy(update=changes)


def test_every_option_reaches_the_strategy() -> None:
    found = device_options.strategy_options(config())
    assert found == options.HatOptions(
        chunking=options.ChunkingOptions(options.ChunkingMode.FIXED, min_tokens=2, max_tokens=99, fixed_tokens=33),
        drafting=options.DraftingOptions(
            options.DraftControl.ADAPTIVE, max_tokens=5, min_confidence=0.4, parallel_branches=3
        ),
        codec=options.CodecOptions(types.Codec.INT4, types.Codec.FLOAT16, exact_tail_tokens=7),
        recovery=options.RecoveryOptions(wait_s=30.0),
    )


def test_ushape_has_heads_where_a_folder_is_named_and_fails_at_once_where_asked() -> None:
    plain = config().strategy.model_copy(update={"type": kinds.StrategyType.U_SHAPE})
    heads = plain.model_copy(update={"heads_path": "h"})
    fails = operations.Fallback(on_cloud_loss=kinds.OnCloudLoss.FAIL)
    without = device_options.strategy_options(config(strategy=plain))
    with_heads = device_options.strategy_options(config(strategy=heads, fallback=fails))
    assert isinstance(without, options.UShapeOptions)
    assert isinstance(with_heads, options.UShapeOptions)
    assert (without.medusa, with_heads.medusa) == (False, True)
    assert (without.recovery.wait_s, with_heads.recovery.wait_s) == (30.0, 0.0)


def test_draft_only_is_refused_and_not_taken_for_another_fallback() -> None:
    wanted = config(fallback=operations.Fallback(on_cloud_loss=kinds.OnCloudLoss.DRAFT_ONLY))
    with pytest.raises(errors.ConfigError, match=r"fallback\.onCloudLoss: DraftOnly .* use Wait or Fail"):
        device_options.strategy_options(wanted)


@pytest.mark.parametrize(
    ("ours", "contract"),
    [
        (options.ChunkingMode, kinds.ChunkingMode),
        (options.DraftControl, kinds.DraftControl),
        (types.Codec, kinds.Codec),
    ],
)
def test_enumerations_of_contract_and_strategies_agree(ours: type[str], contract: type[str]) -> None:
    assert {str(one.value) for one in ours} == {str(one.value) for one in contract}  # type: ignore[attr-defined]


def test_emulation_becomes_conditions_and_costs_or_nothing() -> None:
    assert device_options.link_conditions(None, seed=1) is None
    assert device_options.device_costs(config()) is None
    emulated = emulation.DeviceEmulation(
        link=emulation.LinkEmulation(uplink_kilobits_per_second=8, round_trip_milliseconds=20, loss_permille=5),
        compute=emulation.DeviceCompute(
            shallow=emulation.CallCost(fixed_microseconds=6000, per_token_microseconds=65), per_branch_microseconds=100
        ),
    )
    link = device_options.link_conditions(emulated, seed=1)
    costs = device_options.device_costs(config(emulation=emulated))
    assert link is not None
    assert costs is not None
    assert (link.uplink_bytes_per_s, link.round_trip_s, link.loss_share, link.seed) == (1000.0, 0.02, 0.005, 1)
    assert costs.shallow.duration_s(100) == pytest.approx(0.0125)
    assert costs.head.duration_s(100) == 0.0
    assert costs.per_branch_s == pytest.approx(1e-4)


class VirtualClock:
    def __init__(self) -> None:
        self.time_s = 0.0

    def now(self) -> float:
        return self.time_s

    async def sleep(self, seconds: float) -> None:
        self.time_s += seconds
        await asyncio.sleep(0)


class EndlessGenerator:
    """Emits until it is closed; notes that it was."""

    def __init__(self) -> None:
        self.closed = False

    async def generate(
        self, request: types.GenerationRequest, request_record: record.RequestRecord
    ) -> AsyncGenerator[types.Emission, None]:
        try:
            while True:
                yield types.Emission(())
                await asyncio.sleep(0)
        finally:
            self.closed = True


async def test_stopping_gives_answers_time_and_then_an_error_that_clients_can_read() -> None:
    inner, clock = EndlessGenerator(), VirtualClock()
    one = stopping.StoppableGenerator(inner, clock=clock)
    request = types.GenerationRequest("r", (1,), max_new_tokens=1)
    emitted = 0

    async def consume() -> None:
        nonlocal emitted
        a_record = record.RequestRecord(clock=clock, request_id="r", operation="text_completion", model="", strategy="")
        async for _ in one.generate(request, a_record):
            emitted += 1

    answer = asyncio.create_task(consume())
    await asyncio.sleep(0)
    await one.drain(2.0)
    assert clock.now() >= 2.0
    with pytest.raises(errors.UnavailableError, match="the device is stopping"):
        await answer
    assert inner.closed
    assert emitted > 10
    await one.drain(2.0)  # nothing runs: at once
    assert clock.now() < 2.2


async def test_a_client_that_leaves_is_no_stop() -> None:
    inner, clock = EndlessGenerator(), VirtualClock()
    one = stopping.StoppableGenerator(inner, clock=clock)

    async def consume() -> None:
        a_record = record.RequestRecord(clock=clock, request_id="r", operation="text_completion", model="", strategy="")
        async for _ in one.generate(types.GenerationRequest("r", (1,), max_new_tokens=1), a_record):
            pass

    answer = asyncio.create_task(consume())
    await asyncio.sleep(0)
    answer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answer
    assert inner.closed


def test_a_taken_address_is_a_configuration_error() -> None:
    taken = http_server.bind("127.0.0.1", 0)
    taken.listen()
    with taken, pytest.raises(errors.ConfigError, match=r"listen.port: cannot listen on 127.0.0.1:"):
        http_server.bind("127.0.0.1", taken.getsockname()[1])
    free = http_server.bind("127.0.0.1", 0)
    assert free.getsockname()[1] > 0
    free.close()


def test_expected_errors_are_found_inside_groups() -> None:
    wanted = errors.ConfigError("x")
    group = BaseExceptionGroup("g", [ValueError(), ExceptionGroup("h", [wanted])])
    assert entry._expected(group, (errors.MillinerError,)) is wanted
    assert entry._expected(ValueError(), (errors.MillinerError,)) is None


def test_a_role_that_is_started_as_the_other_says_so(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "d.json"
    path.write_text(config().to_json())
    assert entry._run("cloud", path) == entry.EXIT_WRONG_CONFIGURATION
    assert '"field": "role"' in capsys.readouterr().out


def test_idle_connections_are_closed_by_clients_first() -> None:
    """With 5 s on either side a request on a pooled connection failed now and then, closed as it was sent."""
    httpx_pools_s, proxies_s = httpx.Limits().keepalive_expiry, 60.0
    assert httpx_pools_s is not None
    config = http_server.Server(applications.Starlette()).config
    assert config.timeout_keep_alive > max(httpx_pools_s, proxies_s)
