"""Bodies of answers, from whoever answers: read within bounds, and refused where they are not what was asked for.

A kubeconfig's author chooses the server that answers, and a pod its own words: neither may fill the operator's memory,
hold its threads, or put a text of their own choice, fetched from within the cluster, into a status.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, Protocol

from milliner_operator import errors
from milliner_operator.observed import Manifest

API_BYTES = 32 << 20  # arbitrary: far above 500 pods, the longest list that is asked for
POD_BYTES = 64 << 10  # arbitrary: far above a probe's result
_CHUNK_BYTES = 64 << 10
_MESSAGE_CHARACTERS = 500


class Response(Protocol):
    """What is used of urllib3's response."""

    def read1(self, amt: int | None = None) -> bytes: ...

    def close(self) -> None: ...

    def release_conn(self) -> None: ...


def read(response: Response, *, most_bytes: int, ends: float, now: Callable[[], float] = time.monotonic) -> bytes:
    """The whole body; raises `Refused` for one of more than `most_bytes`, `Unreachable` if it is not there when `now`
    reaches `ends` (both *expected*), however slowly it comes. Blocks; a connection with a rest on it is closed."""
    chunks, size = [], 0
    while chunk := response.read1(_CHUNK_BYTES):
        chunks.append(chunk)
        size += len(chunk)
        if size > most_bytes:
            response.close()
            raise errors.Refused(0, f"the answer has more than {most_bytes} bytes")
        if now() >= ends:
            response.close()
            raise errors.Unreachable(0, "the answer did not end in time")
    response.release_conn()
    return b"".join(chunks)


def document(body: bytes) -> Manifest:
    """An answer that is to be a JSON object; raises `Refused` (*expected*)."""
    found = _parsed(body)
    if not isinstance(found, dict):
        raise errors.Refused(0, "the answer is no JSON object: that is no API server")
    return found


def items(found: Manifest) -> list[Manifest]:
    """The objects of a list, each with name and uid; raises `Refused` (*expected*)."""
    listed = found.get("items") or []
    if not isinstance(listed, list) or not all(map(_is_object, listed)):
        raise errors.Refused(0, "the answer is no list of objects: that is no API server")
    return listed


def refusal(body: bytes) -> str:
    """Why an API server refuses: the message of its Status object, cut; of anything else nothing."""
    found = _parsed(body)
    if not isinstance(found, dict) or found.get("kind") != "Status":
        return "refused without a Status of Kubernetes that would say why"
    return str(found.get("message") or found.get("reason") or "refused without a message")[:_MESSAGE_CHARACTERS]


def _is_object(found: Any) -> bool:
    metadata = found.get("metadata") if isinstance(found, dict) else None
    return isinstance(metadata, dict) and all(isinstance(metadata.get(key), str) for key in ("name", "uid"))


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):  # RecursionError: a document of nothing but brackets
        return None
