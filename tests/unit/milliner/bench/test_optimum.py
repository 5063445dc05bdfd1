"""The optimum must reproduce the figures that docs/algorithms.md states for the preset's constants."""

from __future__ import annotations

import pytest

from milliner.bench import optimum, presets
from milliner.core import types

PRESET = presets.PAPER_WIFI
FLOAT16 = types.Codec.FLOAT16


def _ushape(codec: types.Codec, **options: int) -> float:
    return optimum.ttft_s(PRESET, prompt_tokens=2048, chunk_tokens=2048, codec=codec, **options)


def test_ushape_takes_the_stated_2_29_s() -> None:
    assert _ushape(FLOAT16) == pytest.approx(2.29, abs=0.005)


@pytest.mark.parametrize(
    ("codec", "share"), [(types.Codec.FLOAT16, 0.76), (types.Codec.INT8, 0.41), (types.Codec.INT4, 0.31)]
)
def test_share_of_ushape_float16_is_the_stated_one(codec: types.Codec, share: float) -> None:
    best = optimum.optimum(PRESET, prompt_tokens=2048, codec=codec)
    assert best.ttft_s / _ushape(FLOAT16) == pytest.approx(share, abs=0.005)


@pytest.mark.parametrize(
    ("codec", "share"), [(types.Codec.FLOAT16, 0.76), (types.Codec.INT8, 0.64), (types.Codec.INT4, 0.66)]
)
def test_share_with_the_codec_on_both_sides_is_the_stated_one(codec: types.Codec, share: float) -> None:
    # The stated shares come out when every position is coded; with the exact tail int4's is 0.64.
    best = optimum.optimum(PRESET, prompt_tokens=2048, codec=codec, exact_tail_tokens=0)
    assert best.ttft_s / _ushape(codec, exact_tail_tokens=0) == pytest.approx(share, abs=0.006)


def test_optimum_is_where_upload_and_cloud_balance() -> None:
    # X* = (a + b·μ)/(A/β - b) of docs/algorithms.md, here 24 ms / (819.2 µs - 210 µs) = 39.4
    best = optimum.optimum(PRESET, prompt_tokens=2048, codec=FLOAT16)
    assert best.chunk_tokens == pytest.approx(24e-3 / (819.2e-6 - 210e-6), rel=0.05)


def test_another_width_takes_the_same_time_and_time_scale_multiplies_it() -> None:
    narrow = PRESET.for_model(hidden_size=256)
    slow = PRESET.for_model(hidden_size=256, time_scale=3.0)
    for codec in (types.Codec.FLOAT16, types.Codec.INT4):
        wide_s = optimum.ttft_s(PRESET, prompt_tokens=512, chunk_tokens=64, codec=codec)
        assert optimum.ttft_s(narrow, prompt_tokens=512, chunk_tokens=64, codec=codec) == pytest.approx(wide_s)
        assert optimum.ttft_s(slow, prompt_tokens=512, chunk_tokens=64, codec=codec) == pytest.approx(3 * wide_s)
    assert narrow.link.uplink_bytes_per_s == pytest.approx(625_000)


def test_draft_steps_add_up_to_the_stated_durations() -> None:
    shallow_s = PRESET.device.shallow.duration_s(1)
    assert shallow_s + PRESET.device.adapter_attention.fixed_s == pytest.approx(9.5e-3)
    assert shallow_s + PRESET.device.adapter_layer.fixed_s == pytest.approx(10.9e-3)


def test_int4_takes_the_stated_share_of_float16s_bytes() -> None:
    for width in (256, 4096):
        share = presets.bytes_per_position(types.Codec.INT4, width) / presets.bytes_per_position(FLOAT16, width)
        assert share == pytest.approx(0.266, abs=0.001)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_a_time_scale_that_is_no_factor_is_refused(scale: float) -> None:
    with pytest.raises(presets.PresetError, match="--time-scale"):
        PRESET.for_model(hidden_size=256, time_scale=scale)


def test_an_unknown_preset_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(presets.PresetError, match="paper-wifi"):
        presets.preset("paper-wire")
