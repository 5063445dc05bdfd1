"""Mutual TLS with real certificates: who is refused, and rotation of leaves and CAs under a running stream."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import pathlib
import ssl
from collections.abc import AsyncIterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.wire import certificates, conftest, toy_cloud

from milliner.core import errors
from milliner.wire import client, client_stream, emulated_link, server, tls

LOCAL = emulated_link.LinkConditions(uplink_bytes_per_s=50e6, downlink_bytes_per_s=50e6, round_trip_s=0.002)


@dataclasses.dataclass(frozen=True, slots=True)
class Secured:
    """A toy cloud behind mutual TLS, and both tiers' folders."""

    cloud: certificates.Tier
    device: certificates.Tier
    signer: certificates.Authority
    port: int

    def transport(self) -> client.GrpcTransport:
        """A device that reads its folder."""
        identity = tls.Identity(self.device.files)
        return client.GrpcTransport([f"127.0.0.1:{self.port}"], timeouts=conftest.TIMEOUTS, identity=identity)


@contextlib.asynccontextmanager
async def secured(folder: pathlib.Path) -> AsyncIterator[Secured]:
    signer = certificates.authority("topology chat")
    cloud, device = certificates.tiers(folder, signer)
    credentials = tls.Identity(cloud.files).server_credentials()
    async with await server.serve(toy_cloud.ToyCloud(), credentials=credentials) as running:
        yield Secured(cloud, device, signer, running.port)


async def exchange(stream: client_stream.ClientStream, position: int, *, session_id: str) -> None:
    await stream.send(toy_cloud.frame(session_id=session_id, round_index=position, start_pos=position))
    assert (await stream.receive()).kv_len == position + 1


async def refusal(transport: client.GrpcTransport) -> str:
    """What a new session is refused with."""
    async with transport:
        with pytest.raises(errors.UnavailableError) as refused:
            await transport.open(toy_cloud.session_open("refused"))
    return str(refused.value)


async def test_both_tiers_of_a_topology_talk(tmp_path: pathlib.Path) -> None:
    async with secured(tmp_path) as topology, topology.transport() as transport:
        assert await transport.why_unreachable() == ""
        stream = await transport.open(toy_cloud.session_open())
        await exchange(stream, 0, session_id="s1")


class ByLink:
    """The way over an emulated link."""

    conditions = LOCAL

    def __init__(self) -> None:
        self.links: dict[str, emulated_link.EmulatedLink] = {}

    async def open(self, target: str) -> str:
        host, _, port = target.rpartition(":")
        link = emulated_link.EmulatedLink(host, int(port), self.conditions)
        await link.start()
        self.links[target] = link
        return f"127.0.0.1:{link.port}"

    async def close(self, target: str) -> None:
        await self.links.pop(target).stop()


async def test_a_link_in_between_changes_nothing_about_names(tmp_path: pathlib.Path) -> None:
    async with secured(tmp_path) as topology:
        way, target = ByLink(), f"127.0.0.1:{topology.port}"
        identity = tls.Identity(topology.device.files)
        transport = client.GrpcTransport([target], timeouts=conftest.TIMEOUTS, identity=identity, route=way)
        async with transport:
            stream = await transport.open(toy_cloud.session_open())
            await exchange(stream, 0, session_id="s1")
            assert stream.endpoint == target
            assert way.links[target].bytes_up > 1000
        await way.close(target)


async def test_plain_text_is_refused(tmp_path: pathlib.Path) -> None:
    async with secured(tmp_path) as topology:
        plain = client.GrpcTransport([f"127.0.0.1:{topology.port}"], timeouts=conftest.TIMEOUTS)
        await refusal(plain)


async def test_a_client_without_certificate_is_refused(tmp_path: pathlib.Path) -> None:
    async with secured(tmp_path) as topology:
        anonymous = grpc.ssl_channel_credentials(topology.signer.pem)
        named = [("grpc.ssl_target_name_override", certificates.CLOUD_NAME)]
        async with grpc.aio.secure_channel(f"127.0.0.1:{topology.port}", anonymous, options=named) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_device_of_another_topology_is_refused(tmp_path: pathlib.Path) -> None:
    async with secured(tmp_path) as topology:
        topology.device.take(certificates.authority("topology other"), server=False)
        await refusal(topology.transport())


async def test_a_cloud_of_another_topology_is_not_talked_to(tmp_path: pathlib.Path) -> None:
    async with secured(tmp_path) as topology:
        topology.device.trust(certificates.authority("topology other"))
        assert "CERTIFICATE_VERIFY_FAILED" in await refusal(topology.transport())


async def test_a_certificate_for_another_name_is_not_talked_to(tmp_path: pathlib.Path) -> None:
    async with secured(tmp_path) as topology:
        topology.cloud.take(topology.signer, server=True, name="chat-device.default.svc")
        assert "Hostname Verification Check failed" in await refusal(topology.transport())


async def test_the_clouds_certificate_opens_no_door_as_a_devices(tmp_path: pathlib.Path) -> None:
    async with secured(tmp_path) as topology:
        topology.device.take(topology.signer, server=True)
        await refusal(topology.transport())


async def test_new_leaves_are_used_by_new_connections_while_a_stream_goes_on(tmp_path: pathlib.Path) -> None:
    async with secured(tmp_path) as topology, topology.transport() as transport:
        first = await transport.open(toy_cloud.session_open("s1"))
        await exchange(first, 0, session_id="s1")
        before = await served_certificate(topology)
        topology.cloud.take(topology.signer, server=True)
        topology.device.take(topology.signer, server=False)
        assert await served_certificate(topology) != before
        second = await transport.open(toy_cloud.session_open("s2"))
        await exchange(second, 0, session_id="s2")
        await exchange(first, 1, session_id="s1")
        await first.close()
        third = await transport.open(toy_cloud.session_open("s3"))  # the first one's connection goes with it
        await exchange(second, 1, session_id="s2")
        await exchange(third, 0, session_id="s3")


async def test_a_ca_is_replaced_with_an_overlap_under_a_running_stream(tmp_path: pathlib.Path) -> None:
    async with secured(tmp_path) as topology, topology.transport() as transport:
        stream = await transport.open(toy_cloud.session_open("s0"))
        following = certificates.authority("topology chat, next")
        steps = (
            lambda: topology.cloud.trust(topology.signer, following),
            lambda: topology.device.trust(topology.signer, following),
            lambda: topology.cloud.take(following, server=True),
            lambda: topology.device.take(following, server=False),
            lambda: topology.device.trust(following),
            lambda: topology.cloud.trust(following),
        )
        for index, step in enumerate(steps):
            step()
            await exchange(stream, index, session_id="s0")
            another = await transport.open(toy_cloud.session_open(f"s{index + 1}"))
            await exchange(another, 0, session_id=f"s{index + 1}")
            await another.close()
            async with topology.transport() as newcomer:
                assert await newcomer.why_unreachable() == ""
        topology.device.take(topology.signer, server=False)  # what the old CA signed is worth nothing now
        await refusal(topology.transport())


async def test_an_expired_device_certificate_is_named(tmp_path: pathlib.Path) -> None:
    async with secured(tmp_path) as topology, topology.transport() as transport:
        assert await transport.why_unreachable() == ""
        ended = datetime.datetime(2026, 1, 2, 3, 4, tzinfo=datetime.UTC)
        topology.device.take(topology.signer, server=False, not_after=ended)
        assert "tls.crt expired at 2026-01-02 03:04 UTC" in await transport.why_unreachable()
        topology.device.take(topology.signer, server=False)
        assert await transport.why_unreachable() == ""


async def test_an_expired_cloud_certificate_is_named(tmp_path: pathlib.Path) -> None:
    async with secured(tmp_path) as topology:
        ended = datetime.datetime.now(datetime.UTC) - certificates.DAY
        topology.cloud.take(topology.signer, server=True, not_after=ended)
        async with topology.transport() as transport:
            assert "certificate has expired" in await transport.why_unreachable()
            topology.cloud.take(topology.signer, server=True)
            assert await transport.why_unreachable() == ""


def test_files_that_do_not_fit_together_are_left_until_they_do(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    signer = certificates.authority("topology chat")
    cloud, _ = certificates.tiers(tmp_path, signer)
    identity = tls.Identity(cloud.files)
    cloud.take(signer, server=True, key_too=False)
    for _ in range(3):
        identity.refresh()
    assert identity.version == 1
    assert [record.getMessage() for record in caplog.records].count(
        "the certificates on disk cannot be used, the ones in use stay: "
        "tls.key_file: is not the key of the certificate in certificate_file"
    ) == 1
    cloud.take(signer, server=True)
    identity.refresh()
    assert identity.version == 2


@pytest.mark.parametrize(("name", "field"), [("ca.crt", "ca"), ("tls.crt", "certificate"), ("tls.key", "key")])
@pytest.mark.parametrize("content", [None, b"no PEM"])
def test_files_that_cannot_be_used_are_named(
    tmp_path: pathlib.Path, name: str, field: str, content: bytes | None
) -> None:
    cloud, _ = certificates.tiers(tmp_path, certificates.authority("topology chat"))
    if content is None:
        (cloud.folder / name).unlink()
    else:
        cloud.write(name, content)
    with pytest.raises(errors.ConfigError) as refused:
        tls.Identity(cloud.files)
    assert refused.value.field == f"tls.{field}_file"


async def served_certificate(topology: Secured) -> bytes:
    """What a new connection is shown."""
    context = ssl.create_default_context(cafile=topology.device.files.ca_file)
    context.load_cert_chain(topology.device.files.certificate_file, topology.device.files.key_file)
    context.set_alpn_protocols(["h2"])
    name = certificates.CLOUD_NAME
    _, writer = await asyncio.open_connection("127.0.0.1", topology.port, ssl=context, server_hostname=name)
    shown: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return shown
