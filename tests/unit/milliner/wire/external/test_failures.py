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
