"""gRPC channel options of both tiers: message limits, keepalive, reconnecting. Names are C-core's channel arguments.

Two traps shape them (read in C-core 1.85 and measured, see docs/protocol.md):

- a ping's answer waits behind all data that the sockets hold. On a slow link with a prompt under way that is seconds,
  so the connection that carries hidden states must be patient, and silence is found on another one (`HEARTBEAT`);
- `grpc.keepalive_timeout_ms` alone only sets TCP_USER_TIMEOUT; an unanswered ping ends a connection after
  `grpc.http2.ping_timeout_ms`, a minute by default.
"""

from __future__ import annotations

import dataclasses

from milliner.contract import addresses

MAX_MESSAGE_BYTES = 64 << 20  # 8,192 float16 positions at width 4,096; gRPC's default of 4 MiB would be 512
MAX_PAYLOAD_BYTES = MAX_MESSAGE_BYTES - (64 << 10)  # room for a message's other fields (arbitrary, ample)

ChannelOptions = list[tuple[str, int | str]]


@dataclasses.dataclass(frozen=True, slots=True)
class Keepalive:
    """A ping after `interval_s` without data received; the connection ends if it is not answered in `timeout_s`."""

    interval_s: float
    timeout_s: float


# Arbitrary: far above what data in sockets can delay a ping. A peer that is gone only holds memory meanwhile.
DATA = Keepalive(interval_s=20.0, timeout_s=20.0)
# A vanished cloud is to be found within two seconds, on a connection that carries nothing else.
HEARTBEAT = Keepalive(interval_s=0.9, timeout_s=0.8)


def client_options(keepalive: Keepalive, *, connect_s: float, authority: str = "") -> ChannelOptions:
    """Options of a device's channel to one replica; `authority` is the name behind its address, for TLS."""
    chosen: ChannelOptions = [
        *_common_options(keepalive),
        ("grpc.keepalive_permit_without_calls", 0),  # an idle device is quiet
        ("grpc.use_local_subchannel_pool", 1),  # connections are not shared between channels: each device its own link
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", _ms(connect_s)),  # in C-core also the deadline of one attempt to connect
        ("grpc.max_reconnect_backoff_ms", _ms(max(connect_s, 1.0))),
    ]
    if authority:
        chosen += [
            ("grpc.default_authority", authority),
            ("grpc.ssl_target_name_override", _host(authority)),
        ]
    return chosen


def server_options(keepalive: Keepalive) -> ChannelOptions:
    """Options of a cloud replica's server."""
    return [
        *_common_options(keepalive),
        ("grpc.keepalive_permit_without_calls", 1),
        # without these, C-core answers a device's pings with GOAWAY "too_many_pings"
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 100),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.so_reuseport", 0),  # two replicas on one port are a mistake, not load balancing
    ]


def _common_options(keepalive: Keepalive) -> ChannelOptions:
    return [
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", _ms(keepalive.interval_s)),
        ("grpc.keepalive_timeout_ms", _ms(keepalive.timeout_s)),
        ("grpc.http2.ping_timeout_ms", _ms(keepalive.timeout_s)),
        ("grpc.http2.max_pings_without_data", 0),
    ]


def _host(authority: str) -> str:
    """The name or address that a certificate has to be for; `authority` may have no port."""
    if authority.count(":") > 1 and not authority.startswith("["):
        return authority  # an address of IPv6 alone
    name, _, port = authority.rpartition(":")
    return addresses.bare_host(name if name and port.isdecimal() else authority)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
