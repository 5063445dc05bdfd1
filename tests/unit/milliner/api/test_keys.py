"""API keys: who is let in, what refusals look like, and keys that change in a mounted Secret."""

from __future__ import annotations

import os
import pathlib
from collections.abc import AsyncIterator

import httpx
import pytest
from tests.unit.milliner.api.conftest import ByteTokenizer, ToyGenerator

from milliner.api import app, keys, text_service
from milliner.core import clock, errors


class Time:
    def __init__(self) -> None:
        self.now_s = 10.0

    def __call__(self) -> float:
        return self.now_s


def secret(folder: pathlib.Path, version: str, **contents: str) -> None:
    """What a kubelet does: a new hidden folder, a link to it swapped in, and a link for each key."""
    (folder / f"..{version}").mkdir()
    for name, content in contents.items():
        (folder / f"..{version}" / name).write_text(content)
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    (folder / "..new").symlink_to(f"..{version}")
    os.replace(folder / "..new", folder / "..data")
    for link in folder.iterdir():
        if not link.exists():
            link.unlink()


@pytest.fixture
async def client(tmp_path: pathlib.Path) -> AsyncIterator[httpx.AsyncClient]:
    """An application that knows the keys `mine` and `yours`."""
    secret(tmp_path, "1", first="mine\n", second="yours")
    time = clock.LoopClock()
    model = text_service.ServedModel(name="toy", max_positions=400, strategy="Hat")
    service = text_service.TextService(generator=ToyGenerator(), codec=ByteTokenizer(), model=model, clock=time)
    application = app.create_app(service, clock=time, api_keys=keys.KeyFolder(tmp_path))
    transport = httpx.ASGITransport(app=application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://device") as one:
        yield one
    service.close()


@pytest.mark.parametrize("key", ["mine", "yours"])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
async def test_each_key_lets_in(client: httpx.AsyncClient, key: str, scheme: str) -> None:
    headers = {"Authorization": f"{scheme} {key}"}
    body = {"model": "toy", "prompt": "say", "max_tokens": 3}
    assert (await client.post("/v1/completions", json=body, headers=headers)).status_code == 200
    assert (await client.get("/v1/models", headers=headers)).status_code == 200
    assert (await client.get("/metrics", headers=headers)).status_code == 200


@pytest.mark.parametrize("given", [None, "", "mine", "Basic mine", "Bearer", "Bearer ", "Bearer min", "Bearer mine2"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/models", "/metrics", "/other"])
async def test_everyone_else_is_refused_as_openai_does_it(
    client: httpx.AsyncClient, path: str, given: str | None
) -> None:
    headers = {} if given is None else {"Authorization": given}
    answer = await client.post(path, json={}, headers=headers)
    assert answer.status_code == 401
    error = answer.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "invalid_api_key", None)
    assert "mine" not in error["message"]
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/"])
async def test_health_asks_for_no_key(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 200


def test_keys_follow_the_secret(tmp_path: pathlib.Path) -> None:
    secret(tmp_path, "1", one="old")
    time = Time()
    folder = keys.KeyFolder(tmp_path, monotonic=time)
    assert folder.admits("old")
    secret(tmp_path, "2", two="new")
    secret(tmp_path, "3", two="newer")
    time.now_s += 2
    assert folder.admits("newer")
    assert not folder.admits("old")
    assert not folder.admits("new")


def test_a_folder_without_keys_lets_nobody_in(tmp_path: pathlib.Path) -> None:
    (tmp_path / "blank").write_text(" \n")
    assert not keys.KeyFolder(tmp_path).admits("")


def test_a_folder_that_is_away_is_refused_at_the_start_and_survived_later(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.ConfigError) as refused:
        keys.KeyFolder(tmp_path / "none")
    assert refused.value.field == "api_keys_dir"
    time, folder = Time(), tmp_path / "keys"
    folder.mkdir()
    (folder / "one").write_text("mine")
    found = keys.KeyFolder(folder, monotonic=time)
    (folder / "one").unlink()
    folder.rmdir()
    time.now_s += 2
    assert found.admits("mine")
