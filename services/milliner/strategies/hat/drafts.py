"""Drafts from the adapter: before a frame is sent, and ahead of its outcome while the cloud verifies it.

**Proposing.** The path follows what has been drafted below the root; more is drafted as long as the controller finds
that it pays. A round whose root was drafted ahead has its drafts ready: it is *hidden*, its frame leaves at once.

**Overlapping.** While the verification is outstanding, whole draft steps run as batches over the likeliest outcomes
(`branches`): every step deepens the chain below each of them by one token. A step that would not be finished when the
reply is expected is not begun; if there is still time for the shallow layers alone, they run over the chains' last
tokens, so that the next frame need not wait for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from milliner.core import errors
from milliner.strategies import decode
from milliner.strategies.context import RequestContext
from milliner.strategies.hat import branches, controller
from milliner.telemetry.phases import Phase

MAX_BATCH_BRANCHES = 48  # branches in one step: above this the batch is no longer cheap on a device; arbitrary
REPLY_GRACE_S = 0.002  # a step may end this much after the expected reply: the preset's jitter
STEP_WEIGHT = 0.2  # of a new sample in the moving durations of draft steps; arbitrary


class StepTimes:
    """Moving durations of a draft step, by kind; shared by the requests of a device."""

    def __init__(self) -> None:
        self.expand_s: float | None = None
        self.prepare_s: float | None = None

    def expanded(self, seconds: float) -> None:
        self.expand_s = _moved(self.expand_s, seconds)

    def prepared(self, seconds: float) -> None:
        self.prepare_s = _moved(self.prepare_s, seconds)


class AdapterDrafts:
    """The draft source of one request. Implements `decode.DraftSource`."""

    kind = "verify"

    def __init__(self, context: RequestContext, control: controller.DraftController, steps: StepTimes) -> None:
        self._context = context
        self._device = context.device
        self._control = control
        self._steps = steps
        self._drafting_s = 0.0
        self._limit = 0  # drafts below the root that may still be emitted
        self._confidences: tuple[float, ...] = ()

    # -- before the frame ----------------------------------------------------------------------------------------

    async def propose(self, limit: int) -> decode.Path:
        """Root and drafts: the chain drafted ahead, then further drafts while they pay."""
        start_s = self._context.clock.now()
        self._limit = limit
        path, confidences = [self._device.root], list[float]()
        hidden = False
        if self._control.drafting:
            self._follow_chain(path, confidences, limit)
            hidden = len(path) > 1
            await self._extend_chain(path, confidences, limit)
        self._confidences = tuple(confidences)
        self._drafting_s = self._context.clock.now() - start_s
        self._context.record.add(Phase.DRAFT, self._drafting_s)
        self._context.record.count(num_hidden_rounds=int(hidden))
        return path

    def _follow_chain(self, path: list[int], confidences: list[float], limit: int) -> None:
        """Appends what was drafted ahead below the root, as far as sending it pays."""
        while len(confidences) < limit:
            expansion = self._device.expansion(path[-1])
            if expansion is None:
                return
            child = self._device.child(path[-1], expansion.drafted)
            cost_s = 0.0 if self._device.has_hidden(child) else (self._steps.prepare_s or 0.0)
            if not self._control.worthwhile([*confidences, expansion.confidence], cost_s=cost_s):
                return
            path.append(child)
            confidences.append(expansion.confidence)

    async def _extend_chain(self, path: list[int], confidences: list[float], limit: int) -> None:
        """Drafts below the path's leaf, one token a step, while the next token is expected to pay for the step."""
        while len(confidences) < limit:
            expansion = self._device.expansion(path[-1])
            if expansion is None:
                # The next confidence is unknown before the step: take the last one's, or certainty for the first draft.
                guess = confidences[-1] if confidences else 1.0
                if not self._control.worthwhile([*confidences, guess], cost_s=self._steps.expand_s or 0.0):
                    return
                try:
                    (expansion,), seconds = await self._device.expand(path[-1:])
                except errors.KVCacheFull:  # guesses have filled the tree: what is drafted goes
                    return
                self._steps.expanded(seconds)
            elif not self._control.worthwhile(
                [*confidences, expansion.confidence], cost_s=self._steps.prepare_s or 0.0
            ):
                return
            path.append(self._device.child(path[-1], expansion.drafted))
            confidences.append(expansion.confidence)

    # -- while the frame is verified -----------------------------------------------------------------------------

    async def overlap(self, path: decode.Path, reply: asyncio.Future[Any]) -> None:
        """Draft steps until the reply is expected; returns at the latest with the step that was running then."""
        clock = self._context.clock
        sent_s = clock.now()
        if not self._control.drafting or self._control.options.parallel_branches == 0:
            return
        expected_s = sent_s + self._control.round_trip.seconds(len(path))
        known_trip = self._control.round_trip.num_batches > 0
        while not reply.done():
            left_s = expected_s + REPLY_GRACE_S - clock.now()
            if known_trip and left_s < (self._steps.expand_s or 0.0):
                await self._prepare_leaves(path, left_s)
                return
            nodes = self._frontier(path)
            if not nodes:
                return
            try:
                await self._expand_hidden(nodes)
            except errors.KVCacheFull:  # the tree is as large as it may become
                return

    def _frontier(self, path: decode.Path) -> list[int]:
        """The nodes that the next step should expand: the path's leaf, and the end of each likely outcome's chain."""
        nodes = [path[-1]] if self._device.expansion(path[-1]) is None else []
        for end, depth, below_root in self._chains(path):
            if depth < self._control.options.max_tokens and below_root <= self._limit:
                nodes.append(end)
        return nodes[:MAX_BATCH_BRANCHES]

    def _outcomes(self, path: decode.Path) -> list[branches.Outcome]:
        return branches.likely_outcomes(
            path,
            [self._device.expansion(node) for node in path],
            acceptance=self._control.acceptance.rate,
            per_point=self._control.options.parallel_branches,
        )

    def _chains(self, path: decode.Path) -> Iterator[tuple[int, int, int]]:
        """Of each likely outcome: the end of the chain drafted below it, its length, the end's depth under the root.

        Nothing deeper than the answer may still grow is computed: there may be no positions for it.
        """
        for outcome in self._outcomes(path):
            end, depth = self._chain_end(self._device.child(outcome.parent, outcome.token_id))
            yield end, depth, path.index(outcome.parent) + 1 + depth

    def _chain_end(self, node: int) -> tuple[int, int]:
        """The last node of the chain drafted below `node`, and its length in drafts."""
        depth = 0
        while (expansion := self._device.expansion(node)) is not None:
            node = self._device.child(node, expansion.drafted)
            depth += 1
        return node, depth

    async def _expand_hidden(self, nodes: list[int]) -> None:
        expansions, seconds = await self._device.expand(nodes)
        self._steps.expanded(seconds)
        self._context.record.add(Phase.DRAFT, seconds, hidden=True, branches=len(expansions))

    async def _prepare_leaves(self, path: decode.Path, left_s: float) -> None:
        if self._steps.prepare_s is not None and left_s < self._steps.prepare_s:
            return
        nodes = [
            node
            for node, depth, below_root in self._chains(path)
            if depth > 0 and below_root <= self._limit and not self._device.has_hidden(node)
        ][:MAX_BATCH_BRANCHES]
        if nodes:
            try:
                seconds = await self._device.prepare(nodes)
            except errors.KVCacheFull:
                return
            self._steps.prepared(seconds)
            self._context.record.add(Phase.DEVICE_FORWARD, seconds, hidden=True, branches=len(nodes))

    # -- after it --------------------------------------------------------------------------------------------------

    def learn(self, outcome: decode.RoundOutcome) -> None:
        """Teaches the controller: acceptance by confidence, and what the round cost."""
        num_accepted = outcome.verdict.num_accepted
        for index, confidence in enumerate(self._confidences[: num_accepted + 1]):
            self._control.acceptance.learn(confidence, accepted=index < num_accepted)
        self._control.learn_round(
            num_drafted=len(outcome.path) - 1,
            num_tokens=num_accepted + 1,
            duration_s=outcome.duration_s,
            drafting_s=self._drafting_s,
            round_trip_s=outcome.round_trip_s,
        )


def _moved(old: float | None, sample: float) -> float:
    """A hiccup counts as twice the usual at most: an estimate that forbids drafting would never be corrected."""
    return sample if old is None else old + STEP_WEIGHT * (min(sample, 2.0 * old) - old)
