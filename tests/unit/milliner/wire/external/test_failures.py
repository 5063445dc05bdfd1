"""What is said of a connection that fails."""

import httpx
import pytest

from milliner.core import errors
from milliner.wire.external import failures

WHERE = "http://vllm:8000/v1"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (httpx.ReadError(""), f"{WHERE}: ReadError the connection broke off"),
        (httpx.ConnectError("connection refused"), f"{WHERE}: ConnectError connection refused"),
    ],
)
def test_a_connection_that_fails_without_words_gets_some(error: httpx.HTTPError, told: str) -> None:
    found = failures.of_transport(error, where=WHERE)
    assert isinstance(found, errors.UnavailableError)
    assert str(found).endswith(told)


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        ("Sun, 22 Nov 2026 05:00:20 GMT", 20.0),
        ("Sun, 22 Nov 2026 04:00:00 GMT", 0.0),
        ("Mon, 23 Nov 2026 05:00:00 GMT", 60.0),
        ("soon", 1.0),
        ("-3", 1.0),
        ("٣", 1.0),
        ("Sun, 22 Nov 2026 05:00:20", 1.0),
    ],
)
def test_a_full_server_names_a_time_or_a_date(told: str, seconds: float) -> None:
    headers = {"retry-after": told, "date": "Sun, 22 Nov 2026 05:00:00 GMT"}
    found = failures.of_status(503, headers=headers, body=b"", where=WHERE)
    assert isinstance(found, errors.CapacityError)
    assert found.retry_after_s == seconds


def test_a_date_without_the_servers_clock_tells_nothing() -> None:
    found = failures.of_status(429, headers={"retry-after": "Sun, 22 Nov 2026 05:00:20 GMT"}, body=b"", where=WHERE)
    assert isinstance(found, errors.CapacityError)
    assert found.retry_after_s == 1.0
