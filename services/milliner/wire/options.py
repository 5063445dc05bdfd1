"""gRPC channel options of both tiers: message limits, keepalive, flow control. Names are C-core's channel arguments."""

from __future__ import annotations

import dataclasses

MAX_MESSAGE_BYTES = 64 << 20  # 8,192 float16 positions at width 4,096; gRPC's default of 4 MiB would be 512

ChannelOptions = list[tuple[str, int | str]]


@dataclasses.dataclass(frozen=True, slots=True)
class Keepalive:
    """How a silent peer is found dead: a ping after `interval_s` without data, an answer within `timeout_s`.

    The device's defaults find a vanished cloud within two seconds; any byte received counts as an answer, so that a
    busy slow link is not taken for a dead one. The cloud's are slower: a vanished device only holds KV memory.
    """

    interval_s: float
    timeout_s: float


DEVICE_KEEPALIVE = Keepalive(interval_s=1.0, timeout_s=0.8)
CLOUD_KEEPALIVE = Keepalive(interval_s=10.0, timeout_s=5.0)


def client_options(keepalive: Keepalive = DEVICE_KEEPALIVE) -> ChannelOptions:
    """Options of a device's channel to one cloud endpoint."""
    return [
        *_common_options(keepalive),
        ("grpc.use_local_subchannel_pool", 1),  # a transport owns its connections: each device its own link
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 2000),  # in C-core also the deadline of one connection attempt
        ("grpc.max_reconnect_backoff_ms", 2000),
        # a headless Service's name resolves to all replicas: streams go round
        ("grpc.service_config", '{"loadBalancingConfig":[{"round_robin":{}}]}'),
    ]


def server_options(keepalive: Keepalive = CLOUD_KEEPALIVE) -> ChannelOptions:
    """Options of a cloud replica's server."""
    return [
        *_common_options(keepalive),
        # without these, C-core answers a device's pings with GOAWAY "too_many_pings"
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 100),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.so_reuseport", 0),  # two replicas on one port are a mistake, not load balancing
    ]


def _common_options(keepalive: Keepalive) -> ChannelOptions:
    return [
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", round(keepalive.interval_s * 1000)),
        ("grpc.keepalive_timeout_ms", round(keepalive.timeout_s * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
