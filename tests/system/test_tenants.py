"""Tenants over HTTP and a real engine: what one has asked makes nobody else's answer cheaper, unless they say so."""

from __future__ import annotations

import contextlib
import pathlib
import secrets
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from tests.system import split_topology, whole_tiers
from tests.unit.milliner.api.conftest import ByteTokenizer

from milliner.api import app, keys, text_service
from milliner.core import clock, types
from milliner.strategies import base, cloud_tokens, options, whole_request
from milliner.strategies.cloud_only import strategy as cloud_only
from milliner.strategies.device_only import strategy as device_only

PROMPT = [(11 * index + 5) % 60 + 1 for index in range(100)]
KNOWN = 96  # of it: whole blocks of 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    written, _ = split_topology.write_agreeing_pair(tmp_path_factory.mktemp("tenants"), split_layer=2, deep_share=1.0)
    return written


def strategy(kind: str, tier: whole_tiers.Tier) -> base.Generator:
    if kind == "DeviceOnly":
        return device_only.DeviceOnly(whole_request.DevicePorts(clock=clock.LoopClock(), model=tier.model))
    scope = cloud_tokens.CloudPorts(
        clock=clock.LoopClock(),
        transport=whole_tiers.DirectTransport(whole_tiers.service(tier)),
        info=tier.model.info,
        new_session_id=lambda: secrets.token_hex(8),
    )
    return cloud_only.CloudOnly(scope, options.RecoveryOptions())


class Asker:
    """Asks the same prompt with one key or another; says what was cached of it."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def cached(self, key: str, **body: Any) -> int:
        answer = await self._client.post(
            "/v1/completions",
            json={"model": "tiny", "prompt": PROMPT, "max_tokens": 2, "temperature": 0, "ignore_eos": True, **body},
            headers={"Authorization": f"Bearer {key}"},
        )
        assert answer.status_code == 200, answer.text
        return int(answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"])


@contextlib.asynccontextmanager
async def asked(folder: pathlib.Path, keys_dir: pathlib.Path, kind: str) -> AsyncIterator[Asker]:
    for name in ("alice", "bob"):
        (keys_dir / name).write_text(name)
    async with whole_tiers.tier(folder, origin=types.TokenOrigin.CLOUD) as tier:
        model = text_service.ServedModel(name="tiny", max_positions=tier.model.info.max_positions, strategy=kind)
        service = text_service.TextService(
            generator=strategy(kind, tier), codec=ByteTokenizer(), model=model, clock=clock.LoopClock()
        )
        application = app.create_app(service, clock=clock.LoopClock(), api_keys=keys.KeyFolder(keys_dir))
        transport = httpx.ASGITransport(app=application)
        async with httpx.AsyncClient(transport=transport, base_url="http://device") as client:
            yield Asker(client)
        service.close()


@pytest.mark.parametrize("kind", ["CloudOnly", "DeviceOnly"])
async def test_a_tenant_finds_its_own_prompts_and_nobody_elses(
    folder: pathlib.Path, tmp_path: pathlib.Path, kind: str
) -> None:
    async with asked(folder, tmp_path, kind) as asker:
        assert [await asker.cached("alice"), await asker.cached("alice")] == [0, KNOWN]
        assert [await asker.cached("bob"), await asker.cached("bob")] == [0, KNOWN]


async def test_those_who_name_the_same_salt_share_and_others_do_not(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    async with asked(folder, tmp_path, "CloudOnly") as asker:
        assert await asker.cached("alice", cache_salt="ours") == 0
        assert await asker.cached("bob", cache_salt="ours") == KNOWN
        assert await asker.cached("bob", cache_salt="mine") == 0
        assert await asker.cached("alice") == 0
