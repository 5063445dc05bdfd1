"""What device and cloud take, measured as they serve and shared by all requests of a device: `settings` reads it."""

from __future__ import annotations

import contextlib

from milliner.core import generation, ports, types
from milliner.engine import delay_model
from milliner.strategies.pd_device import settings

_WEIGHT = 0.3  # of a new sample; arbitrary: settles in about five requests
_UNKNOWN_STEP_S = 0.05  # before the first step: the usual aim for a token; arbitrary
_UNKNOWN_PREFILL_S = 0.002  # before the first chunk: P/D-Device's class of device, 500 tokens a second
_BUSY_WEIGHT = 0.5  # of a sample that came later than expected; arbitrary: two requests notice that a cloud is busy
_OVERTAKEN = 1.5  # a first token that had not come when the device's own did counts as so much later; arbitrary
_CORRECTION = (0.5, 4.0)  # least and most; arbitrary: one request that stood still shall not spoil the next ones

_MEASURED_TOKENS = (4, 16, 128, 128)  # chunks; the last ones as long as a chunk of a prompt
_MEASURED_STEPS = 3
_SAMPLER = generation.Sampler(types.SamplingParams(), seed=0)
_MEASURE_WITHIN_S = 1.0  # a chunk of a slow device is shorter: it shall be ready soon (arbitrary)


class FirstTokens:
    """When the cloud's first token for a prompt is expected: a slow line over what it computes of the prompt, and how
    far off it the last ones were, as a cloud is busy for a while. One that comes sooner is believed at once: to ask in
    vain costs little, not to ask a cloud that is quick costs its whole gain."""

    def __init__(self) -> None:
        self._line = delay_model.DelayModel()
        self._off_s = 0.0

    def seconds(self, prompt_tokens: int) -> float:
        """0 before the first one."""
        return max(0.0, self._line.seconds(prompt_tokens) + self._off_s)

    def observe(self, prompt_tokens: int, seconds: float) -> None:
        """It came so long after the request's start."""
        self._line.observe_batch(prompt_tokens, seconds)
        off_s = seconds - self._line.seconds(prompt_tokens)
        self._off_s += (_BUSY_WEIGHT if off_s > self._off_s else 1.0) * (off_s - self._off_s)

    def observe_none(self, prompt_tokens: int, until_s: float) -> None:
        """None had come `until_s` after the request's start. That is no point of the line: nobody knows when it would
        have come, and a stall says nothing of prompts of another length."""
        self._off_s = max(self._off_s, until_s - self._line.seconds(prompt_tokens))


class Profile:
    """Moving estimates, with plausible figures before the first request."""

    def __init__(self) -> None:
        self._chunks = delay_model.DelayModel()
        self._first_tokens = FirstTokens()
        self._cloud_prompts = delay_model.DelayModel()
        self._cloud_token_s: float | None = None
        self._correction = 1.0
        self._num_steps = 0
        self.step_s = _UNKNOWN_STEP_S
        self.cloud_refines = True  # until one that was asked to has not
        self.cloud_overtaken = False  # the last one asked had given nothing when the device had its own first token

    @property
    def prefill_s(self) -> float:
        """Seconds for one more token that the device is given, as catching up really takes."""
        return self._correction * self._chunk_token_s

    @property
    def device(self) -> settings.DeviceProfile:
        return settings.DeviceProfile(prefill_s=self.prefill_s, step_s=self.step_s)

    def cloud(self, prompt_tokens: int) -> settings.CloudProfile:
        """What is expected of the cloud where it has to compute so many tokens of a prompt; nothing before the first
        token, so that it is asked for more of them."""
        return settings.CloudProfile(
            first_token_s=self._first_tokens.seconds(prompt_tokens),
            prompt_s=self._cloud_prompts.seconds(prompt_tokens),
            token_s=self._cloud_token_s or 0.0,
        )

    def prefilled(self, num_tokens: int, seconds: float) -> None:
        """A chunk of known tokens was computed."""
        self._chunks.observe_batch(num_tokens, seconds)

    def caught_up(self, num_tokens: int, seconds: float) -> None:
        """The device has caught up: the `num_tokens` that it computed for that took `seconds`.

        The share of one more token in a chunk is too hopeful: every chunk has its fixed part, and later ones take
        longer. What it was off by corrects the next prediction.
        """
        expected_s = num_tokens * self._chunk_token_s
        if expected_s > 0.0:
            least, most = _CORRECTION
            self._correction += _WEIGHT * (min(most, max(least, seconds / expected_s)) - self._correction)

    def stepped(self, seconds: float) -> None:
        """A token of its own was generated."""
        self._num_steps += 1
        self.step_s += max(_WEIGHT, 1.0 / self._num_steps) * (seconds - self.step_s)

    def cloud_first_token(self, prompt_tokens: int, seconds: float) -> None:
        """The cloud's first token came this long after the request's start; it had to compute so much of the prompt."""
        self._first_tokens.observe(prompt_tokens, seconds)
        self.cloud_overtaken = False

    def cloud_was_overtaken(self, prompt_tokens: int, seconds: float) -> None:
        """The device's own first token came `seconds` after the request's start, and the cloud's had not come."""
        self._first_tokens.observe_none(prompt_tokens, _OVERTAKEN * seconds)
        self.cloud_overtaken = True

    def cloud_computed(self, prompt_tokens: int, token: generation.CloudToken) -> None:
        """What a token took the cloud to compute: the first one with the prompt, others with those of their batch."""
        step = token.step
        if token.index == 0:
            self._cloud_prompts.observe_batch(prompt_tokens, step.compute_s)
            return
        share_s = step.compute_s / max(1, step.batched_tokens)
        known_s = share_s if self._cloud_token_s is None else self._cloud_token_s
        self._cloud_token_s = known_s + _WEIGHT * (share_s - known_s)

    async def measure(self, model: generation.WholeModel, *, clock: ports.Clock) -> None:
        """Measures the device before its first request, with a sequence of its own."""
        room = model.info.max_positions - _MEASURED_STEPS
        session = await model.open(_SAMPLER, max_positions=min(room, 2 * sum(_MEASURED_TOKENS)) + _MEASURED_STEPS)
        try:
            num_tokens = _MEASURED_TOKENS[0]
            for wanted in _MEASURED_TOKENS:
                num_tokens = min(wanted, num_tokens, room - session.position)
                if num_tokens < 1:
                    break
                start_s = clock.now()
                await session.prefill([0] * num_tokens)
                seconds = clock.now() - start_s
                self.prefilled(num_tokens, seconds)
                # Never the same size twice unless it is the largest: one size says nothing of a token's share.
                num_tokens = max(num_tokens + 4, int(_MEASURE_WITHIN_S / max(seconds, 1e-6) * num_tokens))
            await self._time_steps(session, clock=clock)
        finally:
            await session.close()

    async def measure_steps(self, model: generation.WholeModel, *, clock: ports.Clock) -> None:
        """Measures what tokens of its own take the device, with a sequence of its own, where no request shows it.

        Raises `CapacityError`s as `open` does.
        """
        session = await model.open(_SAMPLER, max_positions=_MEASURED_STEPS)
        try:
            await self._time_steps(session, clock=clock)
        finally:
            await session.close()

    async def _time_steps(self, session: generation.WholeSession, *, clock: ports.Clock) -> None:
        start_s = clock.now()
        async with contextlib.aclosing(session.generate([0], limit=_MEASURED_STEPS)) as steps:
            async for _ in steps:
                self.stepped(clock.now() - start_s)
                start_s = clock.now()

    @property
    def _chunk_token_s(self) -> float:
        return self._chunks.per_token_s or _UNKNOWN_PREFILL_S
