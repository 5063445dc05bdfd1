"""Names of the cloud: all addresses behind them, which come and go, and a name server that is away."""

from __future__ import annotations

import asyncio
import pathlib
import socket
from collections.abc import Callable
from typing import NoReturn

import grpc
import pytest
from tests.wire import conftest, toy_cloud

from milliner.core import errors
from milliner.wire import client, client_stream, endpoints, server

NO_SUCH_NAME = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
NO_ANSWER = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


class Names:
    """A name server: what it says to the next question, and how often it was asked."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)
        self.failure: OSError | None = None
        self.num_asked = 0

    async def getaddrinfo(self, host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        self.num_asked += 1
        if self.failure is not None:
            raise self.failure
        family = socket.AF_INET
        return [(family, socket.SOCK_STREAM, 6, "", (address, port)) for address in self.addresses]


@pytest.fixture
async def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    found = Names("127.0.0.1")
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", found.getaddrinfo)
    return found


class Time:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def made(*texts: str, monotonic: Callable[[], float] | None = None) -> endpoints.Endpoints:
    return endpoints.Endpoints(texts, within_s=1.0, monotonic=monotonic or Time())


@pytest.mark.parametrize("text", ["", "host", ":1", "host:", "host:x", "dns:host", "host:0", "host:65536", "host:²"])
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    with pytest.raises(errors.ConfigError, match="expected host:port"):
        endpoints.parse(text)


async def test_each_address_behind_a_name_is_a_target(names: Names) -> None:
    names.addresses = ["10.0.0.1", "10.0.0.2", "10.0.0.1"]
    found = await made("dns:chat-cloud.default.svc:50051", "127.0.0.9:7", "[::1]:8").find()
    name = "chat-cloud.default.svc:50051"
    assert found == {
        "10.0.0.1:50051": name,
        "10.0.0.2:50051": name,
        "127.0.0.9:7": "127.0.0.9:7",
        "[::1]:8": "[::1]:8",
    }
    assert names.num_asked == 1  # addresses are no names


async def test_a_file_is_read_again_and_one_that_is_of_no_use_changes_nothing(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "endpoints"
    one = made(f"file:{file}")
    with pytest.raises(errors.UnavailableError, match=f"no endpoint of the cloud is known: none in {file}"):
        await one.find()
    file.write_text("dns:127.0.0.1:7\n127.0.0.2:7\n")
    assert list(await one.find()) == ["127.0.0.1:7", "127.0.0.2:7"]
    file.write_text("127.0.0.3:8\n")
    assert list(await one.find()) == ["127.0.0.3:8"]
    file.write_text("")
    assert list(await one.find()) == ["127.0.0.3:8"]
    for broken in ("127.0.0.4", "host:no port"):
        file.write_text(broken)
        assert list(await one.find()) == ["127.0.0.3:8"]
        assert "expected host:port" in caplog.text
        caplog.clear()
    file.unlink()
    assert list(await one.find()) == ["127.0.0.3:8"]
    assert f"{file} is of no use" in caplog.text


async def test_names_are_looked_up_again_after_a_while_and_after_a_loss(names: Names) -> None:
    time = Time()
    one = made("dns:cloud:1", monotonic=time)
    for _ in range(3):
        await one.find()
    assert names.num_asked == 1
    names.addresses = ["127.0.0.2"]
    one.forget()
    assert list(await one.find()) == ["127.0.0.2:1"]
    names.addresses = ["127.0.0.3"]
    assert list(await one.find()) == ["127.0.0.2:1"]
    time.now_s += 10
    assert list(await one.find()) == ["127.0.0.3:1"]
    names.addresses = ["127.0.0.4"]
    assert list(await one.find(fresh=True)) == ["127.0.0.4:1"]


async def test_a_name_server_that_does_not_answer_changes_nothing(names: Names) -> None:
    one = made("dns:cloud:1")
    before = await one.find()
    names.failure = NO_ANSWER
    assert await one.find(fresh=True) == before
    names.failure = TimeoutError()
    assert await one.find(fresh=True) == before
    with pytest.raises(errors.UnavailableError, match="leads nowhere"):
        await made("dns:cloud:1").find()


async def test_a_name_without_addresses_leads_nowhere(names: Names) -> None:
    one = made("dns:cloud:1")
    await one.find()
    names.failure = NO_SUCH_NAME
    with pytest.raises(errors.UnavailableError, match="the name cloud leads nowhere"):
        await one.find(fresh=True)
    names.failure = None
    assert list(await one.find()) == ["127.0.0.1:1"]


async def test_replicas_come_and_go_behind_a_name_while_a_session_stays(names: Names) -> None:
    first, second = toy_cloud.ToyCloud(), toy_cloud.ToyCloud()
    async with (
        await server.serve(first) as old,
        await server.serve(second, host="127.0.0.2", port=old.port) as new,
        client.GrpcTransport([f"dns:cloud:{old.port}"], timeouts=conftest.TIMEOUTS) as transport,
    ):
        assert new.port == old.port
        stays = await transport.open(toy_cloud.session_open("stays"))
        names.addresses = ["127.0.0.2"]  # the pod behind the first address is on its way out
        assert await transport.why_unreachable() == ""
        await transport.open(toy_cloud.session_open("moves"))
        assert (first.opened, second.opened) == (["stays"], ["moves"])
        await stays.send(toy_cloud.frame(session_id="stays"))
        assert (await stays.receive()).kv_len == 1
        await stays.close()
        names.addresses = ["127.0.0.1", "127.0.0.2"]  # another pod, or the same one again
        assert await transport.why_unreachable() == ""
        await transport.open(toy_cloud.session_open("balanced"))
        assert first.opened == ["stays", "balanced"]


async def test_a_lost_replica_has_names_looked_up_at_once(names: Names) -> None:
    first, second = toy_cloud.ToyCloud(), toy_cloud.ToyCloud()
    old = await server.serve(first)
    async with (
        await server.serve(second, host="127.0.0.2", port=old.port),
        client.GrpcTransport([f"dns:cloud:{old.port}"], timeouts=conftest.TIMEOUTS) as transport,
    ):
        await (await transport.open(toy_cloud.session_open("s1"))).close()
        names.addresses = ["127.0.0.2"]
        await old.stop()
        await transport.open(toy_cloud.session_open("s2"))
        assert second.opened == ["s2"]


async def test_a_replica_that_goes_while_another_is_tried_is_left_out(names: Names) -> None:
    full, gone, new = toy_cloud.ToyCloud(), toy_cloud.ToyCloud(), toy_cloud.ToyCloud()
    names.addresses = ["127.0.0.1", "127.0.0.2"]
    async with (
        await server.serve(full) as first,
        await server.serve(gone, host="127.0.0.2", port=first.port),
        await server.serve(new, host="127.0.0.3", port=first.port),
        client.GrpcTransport([f"dns:cloud:{first.port}"], timeouts=conftest.TIMEOUTS) as transport,
    ):

        async def refuse(_: object) -> NoReturn:
            names.addresses = ["127.0.0.1", "127.0.0.3"]
            assert await transport.why_unreachable() == ""  # closes the second, which nobody uses
            raise errors.TooManySessions("no room", field="session_id")

        full.open = refuse  # type: ignore[method-assign, assignment]
        await transport.open(toy_cloud.session_open("s1"))
        assert (gone.opened, new.opened) == ([], ["s1"])


async def test_a_connection_that_was_closed_meanwhile_is_a_replica_that_cannot_be_reached() -> None:
    channel = grpc.aio.insecure_channel("127.0.0.1:1")
    await channel.close(None)
    with pytest.raises(errors.UnavailableError, match="is closed"):
        await client_stream.open_stream(conftest.line(channel), toy_cloud.session_open("s1"))
