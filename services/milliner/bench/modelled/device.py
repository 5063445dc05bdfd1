"""`core.compute.DeviceCompute` with modelled durations over a made-up language: the preset's device without tensors.

One accelerator, first in, first out, as `engine.executor`; each call takes what the preset says (a draft step is the
shallow layers where they are missing, the adapter, and a surcharge for each branch beyond the first).
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import Sequence

from milliner.bench import presets
from milliner.bench.modelled import language
from milliner.core import compute, ports, types


class ModelledDevice:
    """See the module. `num_medusa_heads` > 0 makes it a device with heads, `drafts` one with an adapter."""

    def __init__(
        self,
        preset: presets.Preset,
        *,
        clock: ports.Clock,
        speech: language.Language,
        drafts: bool = True,
        num_medusa_heads: int = 0,
    ) -> None:
        self.preset = preset
        self.costs = preset.device
        self.speech = speech
        self.clock = clock
        self._lock = asyncio.Lock()
        self.info = compute.DeviceInfo(
            model_digest="sha256:modelled",
            num_layers=32,
            split_layer=2,
            tail_layers=0,
            hidden_size=preset.hidden_size,
            vocab_size=language.VOCABULARY,
            max_positions=1 << 16,
            drafts=drafts,
            num_medusa_heads=num_medusa_heads,
        )

    def bytes_per_position(self, codec: types.Codec) -> float:
        return presets.bytes_per_position(codec, self.preset.hidden_size)

    async def open(self, request: types.GenerationRequest, wire: compute.WireFormat) -> ModelledSession:
        return ModelledSession(self, request, wire)

    async def busy(self, seconds: float) -> float:
        """Occupies the accelerator for `seconds` and returns them."""
        async with self._lock:
            await self.clock.sleep(seconds)
        return seconds


class _Node:
    __slots__ = ("children", "expansion", "has_hidden", "opinion", "text", "token")

    def __init__(self, token: int, text: int, opinion: language.Opinion) -> None:
        self.token = token
        self.text = text
        self.opinion = opinion
        self.children: dict[int, int] = {}
        self.expansion: compute.Expansion | None = None
        self.has_hidden = False


class ModelledSession:
    """`core.compute.DeviceSession`; see the module. Greedy only."""

    def __init__(self, device: ModelledDevice, request: types.GenerationRequest, wire: compute.WireFormat) -> None:
        self._device = device
        self._costs = device.costs
        self._wire = wire
        self._ids = itertools.count()
        self._nodes: dict[int, _Node] = {}
        self._text = 0
        self._seen = 0  # prompt positions that the drafter has seen
        self.position = 0
        self.root = -1

    async def forward_prompt(self, start: int, token_ids: Sequence[int]) -> compute.Outgoing:
        unseen = token_ids[self.position - start :]
        seconds = await self._device.busy(self._costs.shallow.duration_s(len(unseen))) if unseen else 0.0
        for token in unseen:
            self._text = self._device.speech.extend(self._text, token)
        self.position += len(unseen)
        packed = self._outgoing(range(start, start + len(token_ids)), seconds)
        return dataclasses.replace(packed, num_computed=len(unseen))

    async def forward_drafter(self) -> float:
        unseen, self._seen = self.position - self._seen, self.position
        adapter = self._costs.adapter_layer
        return await self._device.busy(adapter.fixed_s + adapter.per_token_s * unseen) if unseen else 0.0

    async def absorb(self, reply: types.HiddenReply) -> float:
        return 0.0

    async def choose_first(self, reply: types.HiddenReply) -> compute.Verdict:
        seconds = await self._device.busy(self._costs.head.duration_s(1))
        token = self._device.speech.opinion(self._text).target
        self.root = self._new_node(token, self._text)
        return compute.Verdict(0, (types.EmittedToken(token, types.TokenOrigin.PREFILL),), 0.0, seconds)

    def child(self, node: int, token_id: int) -> int:
        known = self._nodes[node].children.get(token_id)
        if known is None:
            known = self._nodes[node].children[token_id] = self._new_node(token_id, self._nodes[node].text)
        return known

    def find(self, node: int, token_id: int) -> int | None:
        return self._nodes[node].children.get(token_id)

    def expansion(self, node: int) -> compute.Expansion | None:
        return self._nodes[node].expansion

    def has_hidden(self, node: int) -> bool:
        return self._nodes[node].has_hidden

    async def expand(self, nodes: Sequence[int]) -> tuple[tuple[compute.Expansion, ...], float]:
        seconds = self._costs.adapter_layer.fixed_s + self._costs.per_branch_s * (len(nodes) - 1)
        if any(not self._nodes[node].has_hidden for node in nodes):
            seconds += self._costs.shallow.duration_s(1)
        await self._device.busy(seconds)
        return tuple(self._expanded(node) for node in nodes), seconds

    async def prepare(self, nodes: Sequence[int]) -> float:
        seconds = self._costs.shallow.duration_s(1) + self._costs.per_branch_s * (len(nodes) - 1)
        await self._device.busy(seconds)
        for node in nodes:
            self._nodes[node].has_hidden = True
        return seconds

    async def propose(self) -> tuple[tuple[int, ...], float]:
        seconds = await self._device.busy(self._costs.medusa.duration_s(1))
        path = [self.root]
        for _ in range(self._device.info.num_medusa_heads):
            path.append(self.child(path[-1], self._nodes[path[-1]].opinion.candidates[0][0]))
        return tuple(path), seconds

    async def pack(self, path: Sequence[int]) -> compute.Outgoing:
        missing = [node for node in path if not self._nodes[node].has_hidden]
        seconds = await self._device.busy(self._costs.shallow.duration_s(len(missing))) if missing else 0.0
        for node in missing:
            self._nodes[node].has_hidden = True
        return self._outgoing(range(self.position, self.position + len(path)), seconds)

    async def verify(self, path: Sequence[int], reply: types.HiddenReply) -> compute.Verdict:
        seconds = await self._device.busy(self._costs.head.duration_s(len(path)))
        emitted: list[types.EmittedToken] = []
        for node, following in itertools.zip_longest(path, path[1:]):
            token = self._nodes[node].opinion.target
            accepted = following is not None and self._nodes[following].token == token
            origin = types.TokenOrigin.DRAFT if accepted else types.TokenOrigin.VERIFIED
            emitted.append(types.EmittedToken(token, origin))
            if not accepted:
                break
        return compute.Verdict(len(emitted) - 1, tuple(emitted), 0.0, seconds)

    def commit(self, path: Sequence[int], verdict: compute.Verdict) -> bool:
        last = path[verdict.num_accepted]
        token = verdict.emitted[-1].token_id
        kept = self.find(last, token) is not None
        self.root = self.child(last, token)
        self.position += verdict.num_accepted + 1
        return kept

    async def repack(self, start: int, end: int) -> compute.Outgoing:
        return self._outgoing(range(start, end), 0.0)

    async def close(self) -> None:
        self._nodes.clear()

    def _new_node(self, token: int, before: int) -> int:
        text = self._device.speech.extend(before, token)
        node = next(self._ids)
        self._nodes[node] = _Node(token, text, self._device.speech.opinion(text))
        return node

    def _expanded(self, node: int) -> compute.Expansion:
        state = self._nodes[node]
        state.has_hidden = True
        candidates = state.opinion.candidates
        state.expansion = compute.Expansion(node, candidates[0][0], candidates[0][1], candidates)
        return state.expansion

    def _outgoing(self, positions: range, forward_s: float) -> compute.Outgoing:
        """Payloads of the right size without content: one for each run of positions with the same codec."""
        payloads = []
        for codec, run in itertools.groupby(self._wire.codec_at(position) for position in positions):
            count = len(list(run))
            num_bytes = round(count * self._device.bytes_per_position(codec))
            payloads.append(types.Payload(codec, count, bytes(num_bytes)))
        return compute.Outgoing(tuple(payloads), len(positions), forward_s, 0.0)
