"""Drafts from the adapter: before a frame is sent, and ahead of its outcome while the cloud verifies it.

**Proposing.** The path follows what has been drafted below the root; more is drafted as long as the controller finds
that it pays. A round whose root was drafted ahead has its drafts ready: it is *hidden*, its frame leaves at once.

**Overlapping.** While the verification is outstanding, whole draft steps run as batches over the likeliest outcomes
(`branches`): every step deepens the chain below each of them by one token. A step that would end after the reply is
expected is begun only if the drafting that it is likely to save is more than the delay; if there is still time for the
shallow layers alone, they run over the chains' last tokens, so that the next frame need not wait for them. While
drafting is off, one step guesses the token behind the root, if there is time: it is not sent, but teaches whether
drafting would pay again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from milliner.core import compute, errors
from milliner.strategies import decode
from milliner.strategies.context import RequestContext
from milliner.strategies.hat import branches, controller
from milliner.strategies.options import DraftControl
from milliner.telemetry.phases import Phase

MAX_BATCH_BRANCHES = 48  # branches in one step: above this the batch is no longer cheap on a device; arbitrary
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
        self._leaf: compute.Expansion | None = None  # the guess behind the last draft

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
                if not self._worth_a_step(confidences):
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

    def _worth_a_step(self, confidences: list[float]) -> bool:
        """Whether to look for another draft. How sure it will be is unknown: as the one before it, or as drafts are."""
        cost_s = self._steps.expand_s or 0.0
        if not confidences:
            return self._control.worth_a_look(cost_s=cost_s)
        return self._control.worthwhile([*confidences, confidences[-1]], cost_s=cost_s)

    # -- while the frame is verified -----------------------------------------------------------------------------

    async def overlap(self, path: decode.Path, reply: asyncio.Future[Any]) -> None:
        """Draft steps until the reply is expected; returns at the latest with the step that was running then."""
        if self._control.options.parallel_branches > 0 and self._control.options.control is not DraftControl.OFF:
            expected_s = self._context.clock.now() + self._control.round_trip.seconds(len(path))
            await self._draft_ahead(path, reply, expected_s=expected_s)
        self._leaf = self._device.expansion(path[-1])

    async def _draft_ahead(self, path: decode.Path, reply: asyncio.Future[Any], *, expected_s: float) -> None:
        known_trip = self._control.round_trip.num_batches > 0
        while not reply.done():
            left_s = expected_s - self._context.clock.now()
            nodes, use = self._frontier(path)
            late_s = (self._steps.expand_s or 0.0) - left_s
            if known_trip and late_s > use * (self._steps.expand_s or 0.0):
                await self._prepare_leaves(path, left_s)
                return
            if not nodes:
                return
            try:
                await self._expand_hidden(nodes)
            except errors.KVCacheFull:  # other requests need the device's memory more than a guess does
                return

    def _frontier(self, path: decode.Path) -> tuple[list[int], float]:
        """The nodes that the next step should expand, and the probability that one of them comes to be of use.

        The path's leaf, and the end of each likely outcome's chain; the leaf alone while drafting is off.
        """
        leaf = path[-1]
        nodes, use = (
            ([leaf], self._control.reach(self._confidences)) if self._device.expansion(leaf) is None else ([], 0.0)
        )
        if not self._control.drafting:
            return nodes, 0.0
        for end, depth, below_root, reached in self._chains(path):
            if (
                depth < self._control.options.max_tokens
                and below_root <= self._limit
                and len(nodes) < MAX_BATCH_BRANCHES
            ):
                nodes.append(end)
                use += reached
        return nodes, min(1.0, use)

    def _outcomes(self, path: decode.Path) -> list[branches.Outcome]:
        return branches.likely_outcomes(
            path,
            [self._device.expansion(node) for node in path],
            acceptance=self._control.acceptance.rate,
            per_point=self._control.options.parallel_branches,
        )

    def _chains(self, path: decode.Path) -> Iterator[tuple[int, int, int, float]]:
        """Of each likely outcome: the end of the chain drafted below it, the chain's length, the end's depth under the
        root, and the probability that all of it comes true.

        Nothing deeper than the answer may still grow is computed: there may be no positions for it.
        """
        for outcome in self._outcomes(path):
            end, confidences = self._chain_end(self._device.child(outcome.parent, outcome.token_id))
            reached = outcome.probability * self._control.reach(confidences)
            yield end, len(confidences), path.index(outcome.parent) + 1 + len(confidences), reached

    def _chain_end(self, node: int) -> tuple[int, list[float]]:
        """The last node of the chain drafted below `node`, and the confidences of its drafts."""
        confidences: list[float] = []
        while (expansion := self._device.expansion(node)) is not None:
            node = self._device.child(node, expansion.drafted)
            confidences.append(expansion.confidence)
        return node, confidences

    async def _expand_hidden(self, nodes: list[int]) -> None:
        expansions, seconds = await self._device.expand(nodes)
        self._steps.expanded(seconds)
        self._context.record.add(Phase.DRAFT, seconds, hidden=True, branches=len(expansions))

    async def _prepare_leaves(self, path: decode.Path, left_s: float) -> None:
        if not self._control.drafting or (self._steps.prepare_s is not None and left_s < self._steps.prepare_s):
            return
        nodes = [
            node
            for node, depth, below_root, _ in self._chains(path)
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
        guess = None
        if self._leaf is not None and num_accepted == len(self._confidences):
            guess = (self._leaf.confidence, self._leaf.drafted == outcome.verdict.emitted[-1].token_id)
        self._control.learn_round(
            controller.Round(
                num_drafted=len(outcome.path) - 1,
                num_tokens=num_accepted + 1,
                duration_s=outcome.duration_s,
                drafting_s=self._drafting_s,
                round_trip_s=outcome.round_trip_s,
                late_s=outcome.late_s,
                guess=guess,
                step_s=self._steps.expand_s or 0.0,
            )
        )


def _moved(old: float | None, sample: float) -> float:
    """A hiccup counts as twice the usual at most: an estimate that forbids drafting would never be corrected."""
    return sample if old is None else old + STEP_WEIGHT * (min(sample, 2.0 * old) - old)
