"""Server-sent events from the bytes of an HTTP answer (WHATWG HTML, 9.2.6); only their data, which is all that engines
send. Pure: who reads the bytes, and how long for, is the business of `event_stream`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from milliner.core import errors
from milliner.wire.external import failures

MOST_EVENT_BYTES = 16 << 20  # arbitrary: an event that repeats a prompt of a million tokens has 7 MB
DONE = "[DONE]"  # OpenAI's last event


class EventParser:
    """Bytes in, as they come; the data of finished events out. Comments, names, ids and retry times are left aside."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[str] = []
        self._num_bytes = 0

    def feed(self, chunk: bytes) -> list[str]:
        """The data of the events that `chunk` has finished. Raises `ProtocolError` for what is no text, or too much."""
        *lines, self._rest = (self._rest + chunk).replace(b"\r\n", b"\n").split(b"\n")
        found = []
        for line in lines:
            if line:
                self._take(line)
            elif self._data:
                found.append("\n".join(self._data))
                self._data, self._num_bytes = [], 0
        if self._num_bytes + len(self._rest) > MOST_EVENT_BYTES:
            raise errors.ProtocolError(
                f"the server sent an event of more than {MOST_EVENT_BYTES} bytes", field=failures.FIELD
            )
        return found

    def _take(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name != b"data":
            return
        try:
            self._data.append(value.removeprefix(b" ").decode("utf-8"))
        except UnicodeDecodeError as error:
            raise errors.ProtocolError(
                f"the server sent an event that is not UTF-8: {error}", field=failures.FIELD
            ) from None
        self._num_bytes += len(value)


def document(text: str | bytes) -> Mapping[str, Any]:
    """The JSON object in an event or a body. Raises `ProtocolError` for anything else."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise errors.ProtocolError(f"the server sent what is no JSON: {error}", field=failures.FIELD) from None
    if not isinstance(found, dict):
        raise errors.ProtocolError(f"the server sent a JSON {type(found).__name__}, no object", field=failures.FIELD)
    return found
