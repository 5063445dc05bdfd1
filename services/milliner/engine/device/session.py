"""One request on the device: prompt, drafting, verification and commit over the device's submodels.

Implements `core.compute.DeviceSession`. The coroutines run on the event loop and hand their work to the device's
executor; the methods named `_…_now` run there, where all tensors live and all caches change, so that a cancelled wait
never leaves half a change behind. `child`, `find` and `commit` only touch the tree on the event loop; what `commit`
means for the caches is settled by the next call on the executor.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from milliner.core import compute, errors, types
from milliner.engine import executor as executors
from milliner.engine.device import costs as device_costs
from milliner.engine.device import draft_tree, drafting, history, submodels, tree_cache, verification

T = TypeVar("T")


class TorchDeviceSession:
    """See the module. Made by `DeviceModel.open`."""

    def __init__(
        self,
        request: types.GenerationRequest,
        wire: compute.WireFormat,
        *,
        modules: submodels.Submodels,
        caches: submodels.DeviceCaches,
        codecs: submodels.Codecs,
        executor: executors.ComputeExecutor,
        costs: device_costs.DeviceCosts | None,
        seed: int,
    ) -> None:
        shallow = modules.shallow
        self._modules = modules
        self._wire = wire
        self._codecs = codecs
        self._executor = executor
        self._costs = costs
        self._prompt_tokens = len(request.prompt_ids)
        self._shallow_cache = tree_cache.TreeCache(caches.shallow.open(), shallow.torch_device)
        self._history = history.History(
            hidden_size=shallow.hidden_size,
            dtype=shallow.dtype,
            torch_device=shallow.torch_device,
            prompt_tokens=self._prompt_tokens,
        )
        self._drafting = drafting.Drafting(
            modules,
            cache=tree_cache.TreeCache(caches.drafter.open(), shallow.torch_device) if caches.drafter else None,
            history=self._history,
            sampling_params=request.sampling,
            seed=seed,
        )
        self._verification = verification.Verification(
            modules,
            tail_cache=tree_cache.TreeCache(caches.tail.open(), shallow.torch_device) if caches.tail else None,
            history=self._history,
            request=request,
            seed=seed,
        )
        self._tree: draft_tree.DraftTree | None = None
        self._unsettled: list[Callable[[], None]] = []
        self._closed = False

    # -- what the strategy reads ---------------------------------------------------------------------------------

    @property
    def position(self) -> int:
        return self._history.length if self._tree is None else self._tree.root.position

    @property
    def root(self) -> int:
        return self._draft_tree.root.id

    def child(self, node: int, token_id: int) -> int:
        return self._draft_tree.child(self._draft_tree.node(node), token_id).id

    def expansion(self, node: int) -> compute.Expansion | None:
        return self._draft_tree.node(node).expansion

    def has_hidden(self, node: int) -> bool:
        return self._draft_tree.node(node).hidden is not None

    # -- prompt --------------------------------------------------------------------------------------------------

    async def forward_prompt(self, start: int, token_ids: Sequence[int]) -> compute.Outgoing:
        end = start + len(token_ids)

        def forward_now() -> compute.Outgoing:
            # What is there is decided here, not on the loop: a call whose wait was cancelled may have run since.
            assert self._history.length >= start, "a prompt is computed from its beginning"
            unseen = token_ids[self._history.length - start :]
            if unseen:
                self._forward_history_now(unseen)
            packed = self._pack_history_now(start, end)
            return dataclasses.replace(packed, num_computed=len(unseen))

        def modelled_s(packed: compute.Outgoing) -> float:
            return self._costs.shallow.duration_s(packed.num_computed) if self._costs and packed.num_computed else 0.0

        return await self._timed(forward_now, modelled_s=modelled_s if self._costs else None)

    async def forward_drafter(self) -> float:
        unseen = self._drafting.unseen(self._history.length)
        if unseen == 0:
            return 0.0
        modelled_s = self._costs.adapter.duration_s(unseen) if self._costs else None
        _, seconds = await self._run(self._drafting.catch_up_now, modelled_s=modelled_s)
        return seconds

    async def absorb(self, reply: types.HiddenReply) -> float:
        def absorb_now() -> None:
            self._verification.absorb_now(self._decode_now(reply), start=reply.start_pos)

        _, seconds = await self._run(absorb_now)
        return seconds

    async def choose_first(self, reply: types.HiddenReply) -> compute.Verdict:
        modelled_s = self._costs.head.duration_s(1) if self._costs else None

        def choose_now() -> verification.Decision:
            if self._modules.tail is not None:
                return self._verification.first_now(None)
            return self._verification.first_now(self._decode_now(reply))

        decision, seconds = await self._run(choose_now, modelled_s=modelled_s)
        self._tree = draft_tree.DraftTree(decision.next_token_id, self._prompt_tokens)
        return decision.verdict(seconds)

    # -- drafting ------------------------------------------------------------------------------------------------

    async def expand(self, nodes: Sequence[int]) -> tuple[tuple[compute.Expansion, ...], float]:
        batch = [self._draft_tree.node(node) for node in nodes]
        modelled_s = None
        if self._costs is not None:
            modelled_s = self._costs.draft_step_s(
                num_shallow=sum(node.hidden is None for node in batch),
                num_drafting=len(batch),
                num_caught_up=self._drafting.unseen(self._draft_tree.root.position),
            )

        def expand_now() -> tuple[compute.Expansion, ...]:
            self._shallow_now(batch)
            return self._drafting.expand_now(batch)

        return await self._run(expand_now, modelled_s=modelled_s)

    async def prepare(self, nodes: Sequence[int]) -> float:
        batch = [self._draft_tree.node(node) for node in nodes]
        modelled_s = self._costs.prepare_s(len(batch)) if self._costs else None
        _, seconds = await self._run(lambda: self._shallow_now(batch), modelled_s=modelled_s)
        return seconds

    async def propose(self) -> tuple[tuple[int, ...], float]:
        tree = self._draft_tree
        modelled_s = self._costs.medusa.fixed_s if self._costs else None
        path, seconds = await self._run(lambda: self._drafting.propose_now(tree), modelled_s=modelled_s)
        return tuple(node.id for node in path), seconds

    # -- verification --------------------------------------------------------------------------------------------

    async def pack(self, path: Sequence[int]) -> compute.Outgoing:
        nodes = [self._draft_tree.node(node) for node in path]
        missing = sum(node.hidden is None for node in nodes)
        modelled_s = self._costs.shallow.duration_s(missing) if self._costs and missing else None

        def pack_now() -> compute.Outgoing:
            self._shallow_now(nodes)
            hidden = torch.stack([_hidden(node) for node in nodes])  # [K + 1, D]
            with verification.Stopwatch() as watch:
                payload = self._codecs.encode(hidden, self._wire.decode)
            return compute.Outgoing((payload,), len(nodes), forward_s=0.0, pack_s=watch.seconds)

        return await self._timed(pack_now, modelled_s=modelled_s)

    async def verify(self, path: Sequence[int], reply: types.HiddenReply) -> compute.Verdict:
        nodes = [self._draft_tree.node(node) for node in path]
        modelled_s = self._costs.head.duration_s(len(nodes)) if self._costs else None
        decision, seconds = await self._run(
            lambda: self._verification.verify_now(nodes, self._decode_now(reply)), modelled_s=modelled_s
        )
        return decision.verdict(seconds)

    def commit(self, path: Sequence[int], verdict: compute.Verdict) -> bool:
        tree = self._draft_tree
        accepted = [tree.node(node) for node in path[: verdict.num_accepted + 1]]
        kept_subtree = tree.reroot(accepted[-1], verdict.emitted[-1].token_id)
        kept = tree.root.subtree()

        def settle_now() -> None:
            self._history.append(torch.stack([_hidden(node) for node in accepted]))
            computed = sorted((node for node in kept if node.shallow_slot is not None), key=_shallow_slot)
            self._shallow_cache.commit([_shallow_slot(node) for node in accepted], list(map(_shallow_slot, computed)))
            for index, node in enumerate(computed):
                node.shallow_slot = self._shallow_cache.committed + index
            self._drafting.commit_now(accepted, kept)

        self._unsettled.append(settle_now)
        return kept_subtree

    async def repack(self, start: int, end: int) -> compute.Outgoing:
        return await self._timed(lambda: self._pack_history_now(start, end))

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            # Shielded: whoever cancels this wait must not take the pages out of the pool for good.
            await asyncio.shield(asyncio.ensure_future(self._executor.run(self._close_now)))

    # -- inside ----------------------------------------------------------------------------------------------------

    @property
    def _draft_tree(self) -> draft_tree.DraftTree:
        assert self._tree is not None, "the first token has been chosen"
        return self._tree

    async def _run(
        self, fn: Callable[[], T], *, modelled_s: executors.ModelledDuration[T] | None = None
    ) -> tuple[T, float]:
        def settled() -> T:
            with torch.inference_mode():
                while self._unsettled:
                    self._unsettled.pop(0)()
                return fn()

        return await self._executor.run(settled, modelled_s=modelled_s)

    async def _timed(
        self,
        fn: Callable[[], compute.Outgoing],
        *,
        modelled_s: executors.ModelledDuration[compute.Outgoing] | None = None,
    ) -> compute.Outgoing:
        """Runs `fn` and books all of its time that is not packing as the layers'."""
        outgoing, seconds = await self._run(fn, modelled_s=modelled_s)
        return dataclasses.replace(outgoing, forward_s=seconds - outgoing.pack_s)

    def _shallow_now(self, nodes: Sequence[draft_tree.Node]) -> None:
        """The shallow layers over those of `nodes` that they have not seen; parents come before children."""
        missing = [node for node in nodes if node.hidden is None]
        if not missing:
            return
        shallow = self._modules.shallow
        slots = {node.id: self._shallow_cache.length + index for index, node in enumerate(missing)}
        batch = self._shallow_cache.tree_batch(  # may refuse: slots are given once it has not
            [node.position for node in missing],
            [
                [slots[above.id] if above.id in slots else _shallow_slot(above) for above in node.lineage()[:-1]]
                for node in missing
            ],
        )
        for node in missing:
            node.shallow_slot = slots[node.id]
        ids = torch.tensor([node.token_id for node in missing], device=shallow.torch_device)
        for node, hidden in zip(missing, shallow.forward(shallow.embed(ids), batch), strict=True):
            node.hidden = hidden

    def _forward_history_now(self, token_ids: Sequence[int]) -> None:
        """The shallow layers over the prompt's next tokens."""
        shallow = self._modules.shallow
        batch = self._shallow_cache.history_batch(len(token_ids))
        ids = torch.tensor(token_ids, device=shallow.torch_device)
        self._history.append(shallow.forward(shallow.embed(ids), batch))

    def _pack_history_now(self, start: int, end: int) -> compute.Outgoing:
        """Positions [start, end) written with the codecs of the wire format, one payload for each codec."""
        edge = min(max(start, self._wire.exact_from), end)
        with verification.Stopwatch() as watch:
            payloads = tuple(
                self._codecs.encode(self._history.hidden(low, high), codec)
                for low, high, codec in ((start, edge, self._wire.prompt), (edge, end, self._wire.decode))
                if high > low
            )
        return compute.Outgoing(payloads, end - start, forward_s=0.0, pack_s=watch.seconds)

    def _decode_now(self, reply: types.HiddenReply) -> torch.Tensor:
        """[T, D] deep states of a reply."""
        shallow = self._modules.shallow
        if reply.payload is None:
            raise errors.ProtocolError("the reply holds no hidden states", field="payload")
        hidden = self._codecs.decode(reply.payload, shallow.hidden_size, shallow.dtype)
        return hidden.to(shallow.torch_device)

    def _close_now(self) -> None:
        self._shallow_cache.close()
        self._drafting.close_now()
        self._verification.close_now()


def _hidden(node: draft_tree.Node) -> torch.Tensor:
    assert node.hidden is not None
    return node.hidden


def _shallow_slot(node: draft_tree.Node) -> int:
    assert node.shallow_slot is not None
    return node.shallow_slot
