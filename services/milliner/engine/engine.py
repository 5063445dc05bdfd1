"""The cloud engine: sessions, continuous batching and load, over a backend that computes. Tensors in, tensors out.

One step is: schedule, run, postprocess, collect. All bookkeeping is on the event loop; the backend runs on the
executor's thread, one batch at a time, and gets freed KV caches with the next batch, so page tables have one owner.
A frame's life: `forward` checks it against its session (`session`), the policy picks it (`scheduler`), the backend
computes it in one or more pieces (`slice_backend`), and the waiting `forward` returns.

Called by the cloud role, which has checked that a peer means this model and slice. Torch-free.
"""

from __future__ import annotations

import asyncio
import functools
import itertools

from milliner.core import compute, errors, ports, types
from milliner.engine import (
    admission,
    batching,
    delay_model,
    limits,
    progress,
    residency,
    reuse,
    scheduler,
    session,
    swapping,
    work,
)
from milliner.engine import executor as executor_module

# Batch sizes computed before the first frame, so that the first prompt finds warm kernels and a delay model. Arbitrary.
WARM_UP_TOKENS = (1, 64, 256)
# Idle sessions are looked for this many times per idle limit: an expired one lives at most a quarter longer.
EXPIRY_CHECKS = 4


class Engine:
    """Opens, computes and closes sessions as `core.ports.CloudService` does, on tensors instead of bytes.

    `run` serves until `stop`; `cost` makes the accelerator an emulated one.
    """

    def __init__(
        self,
        backend: work.Backend,
        *,
        config: limits.EngineConfig,
        executor: executor_module.ComputeExecutor,
        clock: ports.Clock,
        cost: compute.BatchCost | None = None,
        policy: scheduler.SchedulingPolicy | None = None,
    ) -> None:
        self._backend = backend
        self._config = config
        self._executor = executor
        self._clock = clock
        self._cost = cost
        self._admission = admission.Admission(
            num_pages=backend.num_pages,
            swap_pages=backend.swap_pages,
            page_tokens=backend.page_tokens,
            max_sessions=config.max_sessions,
            enlarged_by=config.kv_cache_field,
        )
        self._places = residency.Residency(backend.num_pages, backend.swap_pages, backend.page_tokens)
        self._sessions: dict[str, session.Session] = {}
        self._released: list[work.KVHandle] = []  # caches of ended sessions, freed with the next batch
        self._reuse = reuse.Reuse(self._admission, self._places)
        self._plan = functools.partial(
            batching.plan,
            policy=policy or scheduler.VerifyFirst(),
            budget_tokens=config.max_batch_tokens,
            swaps=swapping.Swapping(self._places, self._reuse),
            kept=self._reuse,
        )
        self._tickets = itertools.count()
        self._delay = delay_model.DelayModel()
        self._progress = progress.Progress()
        self._service_floor = 0  # counters of sessions that become busy are lifted to it
        self._wake = asyncio.Event()
        self._running = False
        self._stopping = False
        self._stopped = asyncio.Event()

    async def open(self, request: types.SessionOpen, *, prompt: work.KnownTokens | None = None) -> types.SessionOpened:
        """Admits a session; with `prompt` it may begin behind positions that an ended session has computed, which
        `SessionOpened.kv_len` says.

        Raises `UnknownSession` (empty id), `ForeignSession` (the id is taken), `PromptTooLong` (more positions than the
        whole cache holds), `TooManySessions`, `KVCacheFull`, and `UnavailableError` when the engine stops or hangs.
        """
        if self._stopping:
            raise errors.UnavailableError("the cloud engine is stopping")
        if self.hung:
            raise errors.UnavailableError(self.hung, field="cloud")
        if not request.session_id:
            raise errors.UnknownSession("the id is empty", field="session_id")
        if request.session_id in self._sessions:
            raise errors.ForeignSession("a session of this id is open: choose an unguessable one", field="session_id")
        self._collect()
        max_positions = min(request.max_positions, self._backend.max_positions)
        pages = self._admission.admit(max_positions, now_s=self._clock.now(), claim=request.claim)
        opened = self._sessions[request.session_id] = session.Session(
            session_id=request.session_id,
            max_positions=max_positions,
            pages=pages,
            order=next(self._tickets),
            now_s=self._clock.now(),
        )
        self._released += self._reuse.admitted(opened, prompt)
        if prompt is not None:
            opened.expected_prompt_tokens = len(prompt.token_ids) - opened.planned_len
        return types.SessionOpened(
            session_id=request.session_id,
            kv_len=opened.planned_len,
            max_frame_tokens=self._config.max_frame_tokens,
            load=self.load(),
            max_positions=min(self._backend.max_positions, self._admission.capacity_tokens),
        )

    async def forward(self, frame: work.Work) -> work.Done:
        """Computes a frame and returns when it is done; frames of one session may be given without waiting.

        Raises `UnknownSession`, `PositionMismatch`, `FrameTooLarge`, `ShapeMismatch`, what `decode` and `encode` raise,
        and `UnavailableError` when the engine stops. Cancelling the last wait for a frame takes it out of the engine.
        """
        owner = self._sessions.get(frame.session_id)
        if owner is None:
            raise errors.UnknownSession(
                "there is no such session: it was never opened, was closed, or expired; open one and replay",
                field="session_id",
            )
        pending = owner.repeated(frame) or self._take_in(owner, frame)
        pending.waiters += 1
        pending.abandoned = False
        try:
            return await asyncio.shield(pending.future)
        except asyncio.CancelledError:
            pending.waiters -= 1
            if pending.waiters == 0 and not pending.future.done():
                self._abandon(owner, pending)
            raise

    def extend(self, session_id: str, max_positions: int) -> None:
        """Gives a session room for `max_positions` from now on; unknown ids are ignored, as by `close`.

        Raises `KVCacheFull` where there is no such room, and leaves everything as it is (*expected*).
        """
        owner = self._sessions.get(session_id)
        if owner is None or max_positions <= owner.kv.max_positions:
            return
        max_positions = min(max_positions, self._backend.max_positions)
        owner.pages = self._admission.extend(owner.pages, max_positions, now_s=self._clock.now())
        owner.kv.max_positions = max_positions

    async def close(self, session_id: str, *, held: work.KnownTokens | None = None) -> None:
        """Ends a session and frees everything of it; unknown ids are ignored, so that closing twice is safe.

        `held` are the tokens that were fed: their cache is kept for prompts that begin alike, while there is room.
        """
        owner = self._sessions.get(session_id)
        if owner is not None:
            self._end(owner, errors.UnknownSession("the session was closed", field="session_id"), held=held)

    @property
    def capacity_tokens(self) -> int:
        """Positions of a session that has the whole KV cache to itself."""
        return self._admission.capacity_tokens

    @property
    def hung(self) -> str:
        """Why the accelerator counts as hung (`progress`), or ""; found while `run` serves."""
        return self._progress.hung

    def swapped(self) -> types.SwapReport:
        """What lies in host memory now, and what was moved so far."""
        return self._places.report(page_bytes=self._backend.page_bytes)

    def load(self) -> types.LoadReport:
        """What every reply carries (docs/algorithms.md, chunk size)."""
        return types.LoadReport(
            delay_fixed_s=self._delay.fixed_s,
            delay_per_token_s=self._delay.per_token_s,
            other_tokens=self._delay.other_tokens,
            running_sessions=len(self._sessions),
            waiting_frames=sum(len(owner.queue) for owner in self._sessions.values()),
            kv_used_share=self._admission.promised_share,
            max_chunk_tokens=min(self._config.max_frame_tokens, self._config.max_batch_tokens),
        )

    async def warm_up(self) -> None:
        """Computes a few batches of zeros: call it before the first session, from whoever reports readiness.

        Every size runs twice and only the second time counts: the first pays for what is set up on first use.
        """
        limit_tokens = min(self.capacity_tokens, self._backend.max_positions, self._config.max_batch_tokens)
        for wanted_tokens in WARM_UP_TOKENS:
            num_tokens = min(wanted_tokens, limit_tokens)
            await self._measure(num_tokens)
            self._delay.observe_batch(num_tokens, await self._measure(num_tokens))

    async def run(self) -> None:
        """Serves until `stop` or until cancelled; then everything queued fails with `UnavailableError`."""
        self._running = True
        try:
            async with asyncio.TaskGroup() as tasks:
                watches = [tasks.create_task(watch) for watch in (self._expire_for_ever(), self._watch_progress())]
                while not self._stopping:
                    if not await self.step():
                        await self._wake.wait()
                        self._wake.clear()
                for watch in watches:
                    watch.cancel()
        finally:
            self._stopping = True
            self._end_all("the cloud engine stopped")
            self._stopped.set()

    async def stop(self) -> None:
        """Ends `run` after the batch that is running now, and waits for that."""
        self._stopping = True
        self._wake.set()
        if self._running:
            await self._stopped.wait()

    async def step(self) -> bool:
        """One batch; False if nothing waits."""
        batch = self._plan(self._sessions.values())
        if batch is None:
            return False
        self._service_floor = batch.service_floor
        self._released += self._reuse.make_room()
        outcome, duration_s = await self._run(batch)
        self._postprocess(batch, outcome, duration_s)
        self._collect()
        return True

    async def _run(self, batch: batching.Batch) -> tuple[work.BatchOutcome, float]:
        """Computes the batch on the executor, which frees ended sessions' caches first."""
        released, self._released = self._released, []
        pieces, cost = batch.pieces, self._cost
        self._progress.started(self._delay.seconds(batch.num_tokens), now_s=self._clock.now())
        try:
            return await self._executor.run(
                lambda: self._backend.run(pieces, release=released, swaps=batch.swaps),
                modelled_s=None if cost is None else lambda outcome: batch.modelled_s(cost, outcome),
            )
        finally:
            self._progress.ended()

    def _postprocess(self, batch: batching.Batch, outcome: work.BatchOutcome, duration_s: float) -> None:
        """Books durations, answers frames that are done and fails those that failed."""
        if outcome.num_tokens:
            self._delay.observe_batch(outcome.num_tokens, duration_s)
        self._reuse.adopted(batch.adopters)
        now_s = self._clock.now()
        own_tokens = batch.tokens_by_session()
        for entry, result in zip(batch.entries, outcome.pieces, strict=True):
            owner, frame = entry.owner, entry.frame
            frame.book(entry.piece, result, duration_s=duration_s, batched_tokens=outcome.num_tokens)
            if frame.future.done():
                continue  # the session ended meanwhile, or an earlier frame of it failed just now
            if result.error is not None:
                owner.fail_from(frame, result.error, now_s=now_s)
                continue
            self._delay.observe_frame(max(0, outcome.num_tokens - own_tokens[owner.id]))
            if frame.left_tokens == 0:
                following = owner.finish(frame, result.payload, now_s=now_s)
                if following is not None:
                    self._take_in(owner, following)
            elif frame.abandoned:
                owner.fail_from(frame, _abandoned(), now_s=now_s)

    def _collect(self) -> None:
        """Ends sessions that nobody used for longer than the idle limit."""
        limit_s = self._clock.now() - self._config.session_idle_s
        for owner in [owner for owner in self._sessions.values() if not owner.queue and owner.last_used_s < limit_s]:
            self._end(owner, errors.UnknownSession("the session expired", field="session_id"))

    async def _measure(self, num_tokens: int) -> float:
        modelled_s = self._cost.batch_s(num_tokens, num_steps=0) if self._cost else None
        _, duration_s = await self._executor.run(lambda: self._backend.measure(num_tokens), modelled_s=modelled_s)
        return duration_s

    async def _expire_for_ever(self) -> None:
        while True:
            await self._clock.sleep(self._config.session_idle_s / EXPIRY_CHECKS)
            self._collect()

    async def _watch_progress(self) -> None:
        """Ends all sessions when the accelerator hangs: their devices go on elsewhere instead of waiting for it."""
        while True:
            await self._clock.sleep(progress.LOOK_EVERY_S)
            self._progress.look(now_s=self._clock.now())
            if self.hung:
                self._end_all(self.hung)

    def _take_in(self, owner: session.Session, frame: work.Work) -> session.Pending:
        if frame.num_tokens < 1:
            raise errors.ShapeMismatch("a frame needs at least one position", field="payloads")
        if frame.num_tokens > self._config.max_frame_tokens:
            raise errors.FrameTooLarge(
                f"found {frame.num_tokens} positions, at most {self._config.max_frame_tokens} fit: send smaller chunks",
                field="payloads",
            )
        owner.check(frame)
        if not owner.queue:
            owner.served_tokens = max(owner.served_tokens, self._service_floor)
        self._wake.set()
        return owner.take_in(frame, ticket=next(self._tickets), now_s=self._clock.now())

    def _abandon(self, owner: session.Session, frame: session.Pending) -> None:
        """Nobody waits for the frame: out of the queue at once, or after the batch that computes a piece of it."""
        frame.abandoned = True
        if not frame.in_batch:
            owner.fail_from(frame, _abandoned(), now_s=self._clock.now())

    def _end_all(self, reason: str) -> None:
        for owner in list(self._sessions.values()):
            self._end(owner, errors.UnavailableError(reason, field="cloud"))

    def _end(self, owner: session.Session, error: Exception, *, held: work.KnownTokens | None = None) -> None:
        del self._sessions[owner.id]
        self._admission.release(owner.pages)
        self._places.ended(owner)
        self._released += self._reuse.ended(owner, held)
        owner.fail_all(error)
        self._wake.set()  # somebody may have waited for its pages


def _abandoned() -> errors.MillinerError:
    return errors.UnavailableError("the frame was cancelled by its sender")
