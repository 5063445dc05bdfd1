"""How many tokens the cloud gives."""

from __future__ import annotations

import pytest

from milliner.strategies.pd_device import settings

ORIN = settings.DeviceProfile(prefill_s=0.002, step_s=0.04)


@pytest.mark.parametrize(
    ("prompt_tokens", "kept_share", "least"),
    # 8,192 tokens at 500 a second, shown every 50 ms: (16.384 + 0.04 - 0.5) / 0.048 = 331.8, and so on
    [(8192, 1.0, 332), (8192, 0.5, 162), (8192, 0.3, 93), (512, 1.0, 12), (64, 1.0, 1)],
)
def test_the_cloud_gives_what_bridges_the_devices_prefill(prompt_tokens: int, kept_share: float, least: int) -> None:
    found = settings.cloud_tokens(
        ORIN, prompt_tokens=prompt_tokens, interval_s=0.05, first_token_s=0.5, kept_share=kept_share
    )
    assert found is not None
    assert least <= found <= 1.04 * least + 1


def test_a_device_that_waits_for_the_selection_needs_more() -> None:
    at_once = settings.cloud_tokens(ORIN, prompt_tokens=2048, interval_s=0.05, first_token_s=0.5)
    later = settings.cloud_tokens(
        ORIN, prompt_tokens=2048, interval_s=0.05, first_token_s=0.5, waits_for_selection=True
    )
    assert at_once is not None
    assert later is not None
    assert later - at_once == pytest.approx(0.5 / 0.048, abs=2)


def test_a_device_that_reads_no_faster_than_tokens_are_shown_never_catches_up() -> None:
    slow = settings.DeviceProfile(prefill_s=0.05, step_s=0.2)
    assert settings.cloud_tokens(slow, prompt_tokens=100, interval_s=0.05, first_token_s=0.1) is None


@pytest.mark.parametrize("prompt_tokens", [64, 512, 2048, 8192])
def test_n_tokens_leave_no_gap_and_one_in_ten_fewer_would(prompt_tokens: int) -> None:
    first_s, interval_s = 0.15, 0.05
    found = settings.cloud_tokens(ORIN, prompt_tokens=prompt_tokens, interval_s=interval_s, first_token_s=first_s)
    assert found is not None

    def late_s(tokens: int) -> float:
        ready_s = (prompt_tokens + tokens) * ORIN.prefill_s + ORIN.step_s
        return ready_s - (first_s + tokens * interval_s)

    assert late_s(found) <= 0.0
    if found > 10:
        assert late_s(int(0.9 * found)) > 0.0
