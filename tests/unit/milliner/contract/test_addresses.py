"""Hosts and ports as text, in both families."""

from __future__ import annotations

import pytest

from milliner.contract import addresses
from milliner.wire import endpoints, options


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("10.0.0.1", "10.0.0.1:7"),
        ("chat-cloud.default.svc", "chat-cloud.default.svc:7"),
        ("2001:db8::1", "[2001:db8::1]:7"),
        ("[::1]", "[::1]:7"),
        ("::", "[::]:7"),
    ],
)
def test_addresses_of_ipv6_have_brackets_and_are_read_back(host: str, text: str) -> None:
    assert addresses.join(host, 7) == text
    assert endpoints.parse(f"dns:{text}") == endpoints.Endpoint(addresses.bare_host(host), 7)


@pytest.mark.parametrize(
    ("authority", "name"),
    [
        ("chat-cloud.default.svc", "chat-cloud.default.svc"),
        ("chat-cloud.default.svc:50051", "chat-cloud.default.svc"),
        ("10.0.0.1:50051", "10.0.0.1"),
        ("[2001:db8::1]:50051", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
    ],
)
def test_a_certificate_is_compared_with_the_bare_host(authority: str, name: str) -> None:
    chosen = dict(options.client_options(options.DATA, connect_s=1.0, authority=authority))
    assert chosen["grpc.ssl_target_name_override"] == name
