"""One request on the device: what a strategy asks for, handed to the device's executor call by call.

Implements `core.compute.DeviceSession`. The coroutines run on the event loop; the work itself is in `shallow`,
`drafting`, `verification` and `packing`, whose methods named `…_now` run on the executor, where all tensors live and
all caches change, so that a cancelled wait never leaves half a change behind. `child` and `commit` only touch the tree
on the event loop; what `commit` means for the caches is settled by the next call on the executor.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from milliner.core import compute, types
from milliner.engine import executor as executors
from milliner.engine.device import costs as device_costs
from milliner.engine.device import (
    draft_tree,
    drafting,
    history,
    packing,
    shallow,
    submodels,
    tree_cache,
    verification,
)
from milliner.model import sampling

T = TypeVar("T")


class TorchDeviceSession:
    """See the module. Made by `DeviceModel.open`; `on_closed` is called once, when its memory is free again."""

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
        on_closed: Callable[[], None],
    ) -> None:
        layers = modules.shallow
        self._modules = modules
        self._executor = executor
        self._costs = costs
        self._prompt_tokens = len(request.prompt_ids)
        self._on_closed = on_closed
        self._history = history.History(
            hidden_size=layers.hidden_size,
            dtype=layers.dtype,
            torch_device=layers.torch_device,
            prompt_tokens=self._prompt_tokens,
        )
        picker = sampling.Picker(request.sampling, seed=seed)
        self._packing = packing.Packing(modules, codecs=codecs, wire=wire, history=self._history)
        self._shallow = shallow.Shallow(
            modules, cache=tree_cache.TreeCache(caches.shallow.open(), layers.torch_device), history=self._history
        )
        self._drafting = drafting.Drafting(
            modules,
            cache=tree_cache.TreeCache(caches.drafter.open(), layers.torch_device) if caches.drafter else None,
            history=self._history,
            picker=picker,
        )
        self._verification = verification.Verification(
            modules,
            tail_cache=tree_cache.TreeCache(caches.tail.open(), layers.torch_device) if caches.tail else None,
            history=self._history,
            request=request,
            picker=picker,
        )
        self._tree: draft_tree.DraftTree | None = None
        self._unsettled: list[Callable[[], None]] = []
        self._closing: asyncio.Future[tuple[None, float]] | None = None

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
        def forward_now() -> compute.Outgoing:
            num_computed = self._shallow.prompt_now(start, token_ids)
            packed = self._packing.committed_now(start, start + len(token_ids))
            return dataclasses.replace(packed, num_computed=num_computed)

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
            deep, _ = self._packing.read_now(reply)
            self._verification.absorb_now(deep, start=reply.start_pos)

        _, seconds = await self._run(absorb_now)
        return seconds

    async def choose_first(self, reply: types.HiddenReply) -> compute.Verdict:
        modelled_s = self._costs.head.duration_s(1) if self._costs else None

        def choose_now() -> tuple[verification.Decision, float]:
            if self._modules.tail is not None:
                return self._verification.first_now(None), 0.0
            deep, decode_s = self._packing.read_now(reply)
            return self._verification.first_now(deep), decode_s

        (decision, decode_s), seconds = await self._run(choose_now, modelled_s=modelled_s)
        self._tree = draft_tree.DraftTree(decision.next_token_id, self._prompt_tokens)
        return decision.verdict(seconds, decode_s=decode_s)

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
            self._shallow.guesses_now(batch)
            return self._drafting.expand_now(batch)

        return await self._run(expand_now, modelled_s=modelled_s)

    async def prepare(self, nodes: Sequence[int]) -> float:
        batch = [self._draft_tree.node(node) for node in nodes]
        modelled_s = self._costs.prepare_s(len(batch)) if self._costs else None
        _, seconds = await self._run(lambda: self._shallow.guesses_now(batch), modelled_s=modelled_s)
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
            self._shallow.nodes_now(nodes)
            return self._packing.path_now([shallow.hidden_of(node) for node in nodes])

        return await self._timed(pack_now, modelled_s=modelled_s)

    async def verify(self, path: Sequence[int], reply: types.HiddenReply) -> compute.Verdict:
        nodes = [self._draft_tree.node(node) for node in path]
        modelled_s = self._costs.head.duration_s(len(nodes)) if self._costs else None

        def verify_now() -> tuple[verification.Decision, float]:
            deep, decode_s = self._packing.read_now(reply)
            return self._verification.verify_now(nodes, deep), decode_s

        (decision, decode_s), seconds = await self._run(verify_now, modelled_s=modelled_s)
        return decision.verdict(seconds, decode_s=decode_s)

    def commit(self, path: Sequence[int], verdict: compute.Verdict) -> bool:
        tree = self._draft_tree
        accepted = [tree.node(node) for node in path[: verdict.num_accepted + 1]]
        kept_subtree = tree.reroot(accepted[-1], verdict.emitted[-1].token_id)
        kept = tree.root.subtree()

        def settle_now() -> None:
            self._shallow.commit_now(accepted, kept)
            self._drafting.commit_now(accepted, kept)

        self._unsettled.append(settle_now)
        return kept_subtree

    async def repack(self, start: int, end: int) -> compute.Outgoing:
        return await self._timed(lambda: self._packing.committed_now(start, end))

    async def close(self) -> None:
        if (closing := self._closing) is None:
            closing = self._closing = asyncio.ensure_future(self._executor.run(self._close_now))
            closing.add_done_callback(lambda _: self._on_closed())
        await asyncio.shield(closing)  # whoever cancels this wait must not take the pages out of the pool for good

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

    def _close_now(self) -> None:
        self._shallow.close_now()
        self._drafting.close_now()
        self._verification.close_now()
