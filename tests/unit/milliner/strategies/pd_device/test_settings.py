"""How many tokens the cloud gives, of what prompt the device goes on, and when it is not a matter of both."""

from __future__ import annotations

import dataclasses

import pytest

from milliner.strategies.pd_device import pacing, settings

ORIN = settings.DeviceProfile(prefill_s=0.002, step_s=0.04)
AIMS = settings.Aims(first_token_s=2.0, token_s=0.05)


def cloud(prompt_tokens: int) -> settings.CloudProfile:
    """24 ms + 210 µs a token, over 20 ms; eight sequences share a batch."""
    prompt_s = 0.024 + 0.00021 * prompt_tokens
    return settings.CloudProfile(first_token_s=0.02 + prompt_s, prompt_s=prompt_s, token_s=0.0032)


def chosen(prompt_tokens: int, **changes: float) -> settings.Settings:
    task = settings.Task(prompt_tokens=prompt_tokens, most_tokens=10_000, least_kept=changes.pop("least_kept", 1.0))
    assert not changes
    return settings.choose(ORIN, cloud(prompt_tokens), task, AIMS)


def late_s(one: settings.Settings, prompt_tokens: int, *, tokens: int | None = None) -> float:
    """By how much the device is late for its first own token, played through instead of solved."""
    first_s = cloud(prompt_tokens).first_token_s
    given = one.cloud_tokens if tokens is None else tokens
    raw = 0.0 if one.waits else min(prompt_tokens, first_s / ORIN.prefill_s)
    at_s = max(first_s, raw * ORIN.prefill_s) if one.kept_share < 1.0 else raw * ORIN.prefill_s
    kept = one.kept_share * prompt_tokens
    if one.kept_share < 1.0:  # half of it the prompt's end, the rest spread
        kept -= 0.5 * kept * min(1.0, raw / (prompt_tokens - 0.5 * kept))
    at_s += min(kept, prompt_tokens - raw) * ORIN.prefill_s + given * ORIN.prefill_s + ORIN.step_s
    return at_s - (first_s + given * AIMS.shown_s)


@pytest.mark.parametrize("least_kept", [1.0, 0.5, 0.3])
@pytest.mark.parametrize("prompt_tokens", [64, 512, 2048, 8192])
def test_n_tokens_leave_no_gap_and_one_in_ten_fewer_would(prompt_tokens: int, least_kept: float) -> None:
    found = chosen(prompt_tokens, least_kept=least_kept)
    assert late_s(found, prompt_tokens) <= 1e-3  # floor of the tokens fed at once: half a token's time
    if found.cloud_tokens > 10:
        assert late_s(found, prompt_tokens, tokens=int(0.9 * found.cloud_tokens)) > 0.0


def test_the_figures_of_a_long_prompt() -> None:
    # (8192 x 2 ms + 40 ms - 1.764 s) / (46 ms - 2 ms); 2458 x 2 ms + 40 ms of three tenths, waiting
    assert chosen(8192).cloud_tokens == pytest.approx(333, rel=0.03)
    refined = chosen(8192, least_kept=0.3)
    assert refined.kept_share == 0.3
    assert refined.cloud_tokens == pytest.approx(113, rel=0.03)


def test_a_prompt_is_kept_whole_where_leaving_out_saves_nothing() -> None:
    assert chosen(4096, least_kept=0.3).kept_share == 0.4, "the most that costs the cloud hardly more than the least"
    assert chosen(40, least_kept=0.3).kept_share == 1.0
    assert chosen(2048, least_kept=0.3).kept_share < 1.0


def test_unless_it_is_allowed_nothing_is_left_out_and_nothing_waited_for() -> None:
    for prompt_tokens in (64, 512, 2048, 8192):
        found = chosen(prompt_tokens)
        assert (found.kept_share, found.waits) == (1.0, False)


def test_the_floor_of_quality_holds() -> None:
    assert {chosen(tokens, least_kept=0.55).kept_share >= 0.55 for tokens in (512, 2048, 8192)} == {True}


def test_who_waits_relies_on_a_first_token_in_time() -> None:
    task = settings.Task(prompt_tokens=8192, most_tokens=10_000, least_kept=0.3)
    known = dataclasses.replace(cloud(8192), token_s=0.001)  # a token costs a well filled cloud next to nothing
    found = settings.choose(ORIN, known, task, AIMS)
    assert found.waits, "the device computes less for hardly more of the cloud"
    late = settings.Aims(first_token_s=0.9 * known.first_token_s, token_s=0.05)
    assert not settings.choose(ORIN, known, task, late).waits
    unknown = settings.CloudProfile(prompt_s=known.prompt_s, token_s=known.token_s)
    assert not settings.choose(ORIN, unknown, task, AIMS).waits


@pytest.mark.parametrize(
    "slow",
    [settings.DeviceProfile(prefill_s=0.05, step_s=0.04), settings.DeviceProfile(prefill_s=0.002, step_s=0.06)],
    ids=["reads too slowly", "writes too slowly"],
)
def test_a_device_that_never_keeps_the_pace_leaves_the_answer_to_the_cloud(slow: settings.DeviceProfile) -> None:
    task = settings.Task(prompt_tokens=512, most_tokens=300, least_kept=0.3)
    assert settings.choose(slow, cloud(512), task, AIMS) == settings.Settings(cloud_tokens=300, holds_back=True)


def test_a_cloud_that_would_come_later_is_not_asked() -> None:
    busy = settings.CloudProfile(first_token_s=1.1, prompt_s=0.1, token_s=0.003)
    task = settings.Task(prompt_tokens=512, most_tokens=300)
    assert settings.choose(ORIN, busy, task, AIMS).cloud_tokens == 0
    longer = settings.Task(prompt_tokens=600, most_tokens=300)
    assert settings.choose(ORIN, busy, longer, AIMS).cloud_tokens > 0


def test_a_device_that_is_the_first_but_too_slow_leaves_the_answer_to_a_cloud_that_is_in_time() -> None:
    slow = settings.DeviceProfile(prefill_s=0.002, step_s=0.06)
    task = settings.Task(prompt_tokens=64, most_tokens=300)
    for first_token_s, asked in ((1.9, 300), (2.1, 0)):
        busy = settings.CloudProfile(first_token_s=first_token_s, prompt_s=0.1, token_s=0.003)
        assert settings.choose(slow, busy, task, AIMS).cloud_tokens == asked


def test_what_the_device_has_computed_before_needs_no_bridging() -> None:
    fresh = settings.Task(prompt_tokens=2048, most_tokens=1000)
    known = settings.Task(prompt_tokens=2048, most_tokens=1000, cached_tokens=1536)
    at_512 = settings.choose(ORIN, cloud(2048), known, AIMS).cloud_tokens
    assert at_512 < 0.3 * settings.choose(ORIN, cloud(2048), fresh, AIMS).cloud_tokens


def test_the_topologys_limit_holds() -> None:
    task = settings.Task(prompt_tokens=8192, most_tokens=50)
    assert settings.choose(ORIN, cloud(8192), task, AIMS).cloud_tokens == 50


def test_tokens_are_shown_a_little_faster_than_the_aim() -> None:
    assert AIMS.shown_s == pytest.approx(pacing.AIM_SHARE * 0.05)
    assert settings.cloud_tokens(9.12, interval_s=0.05, prefill_s=0.002) == 192  # 190 and a little to spare
