"""A request's hidden states on their way to the wire and back: which positions go with which codec, and what it took.

Everything here runs on the device's executor thread, in inference mode.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from milliner.core import compute, errors, types
from milliner.engine.device import history, submodels


class Stopwatch:
    """Seconds spent in a `with` block on the executor thread."""

    def __enter__(self) -> Stopwatch:
        self._start_s = time.perf_counter()
        self.seconds = 0.0
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start_s


class Packing:
    """One request's codecs over its history."""

    def __init__(
        self,
        modules: submodels.Submodels,
        *,
        codecs: submodels.Codecs,
        wire: compute.WireFormat,
        history: history.History,
    ) -> None:
        self._shallow = modules.shallow
        self._codecs = codecs
        self._wire = wire
        self._history = history

    def committed_now(self, start: int, end: int) -> compute.Outgoing:
        """Committed positions [start, end), one payload for each codec of the wire format."""
        edge = min(max(start, self._wire.exact_from), end)
        with Stopwatch() as watch:
            payloads = tuple(
                self._codecs.encode(self._history.hidden(low, high), codec)
                for low, high, codec in ((start, edge, self._wire.prompt), (edge, end, self._wire.decode))
                if high > low
            )
        return compute.Outgoing(payloads, end - start, forward_s=0.0, pack_s=watch.seconds)

    def path_now(self, rows: Sequence[torch.Tensor]) -> compute.Outgoing:
        """Hidden states [D] each of root and drafts."""
        with Stopwatch() as watch:
            payload = self._codecs.encode(torch.stack(list(rows)), self._wire.decode)
        return compute.Outgoing((payload,), len(rows), forward_s=0.0, pack_s=watch.seconds)

    def read_now(self, reply: types.HiddenReply) -> tuple[torch.Tensor, float]:
        """[T, D] deep states of a reply, and the seconds that reading them took."""
        if reply.payload is None:
            raise errors.ProtocolError("the reply holds no hidden states", field="payload")
        with Stopwatch() as watch:
            hidden = self._codecs.decode(reply.payload, self._shallow.hidden_size, self._shallow.dtype)
            hidden = hidden.to(self._shallow.torch_device)
        return hidden, watch.seconds
