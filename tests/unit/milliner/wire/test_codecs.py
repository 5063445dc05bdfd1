"""Codecs: sizes, exactness, error on hidden states with outliers, what is not finite."""

from __future__ import annotations

import pytest
import torch

from milliner.core import errors, types
from milliner.wire import codecs, layout

WIDTHS = [1, 7, 36, 48, 64, 256, 896, 4096]
# Relative errors of 64 positions; measured 0.0087 and 0.0873 at width 4,096 on normal numbers, with room for the seed.
INT8_ERROR = 0.01
INT4_ERROR = 0.095


def normal(num_tokens: int, width: int, *, seed: int = 0) -> torch.Tensor:
    return torch.randn(num_tokens, width, generator=torch.Generator().manual_seed(seed))


def with_outliers(num_tokens: int, width: int) -> torch.Tensor:
    """One channel in 128 thirty times larger in every position, as language models have them."""
    hidden = normal(num_tokens, width)
    hidden[:, :: max(1, min(128, width))] += 30.0
    return hidden


def round_trip(hidden: torch.Tensor, codec: types.Codec) -> torch.Tensor:
    return codecs.decode(codecs.encode(hidden, codec), hidden.shape[-1], torch.float32)


def relative_error(hidden: torch.Tensor, codec: types.Codec) -> float:
    return float((round_trip(hidden, codec) - hidden).norm() / hidden.norm())


@pytest.mark.parametrize("codec", list(types.Codec))
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("num_tokens", [1, 3])
def test_a_payload_has_the_size_that_the_layout_says(codec: types.Codec, width: int, num_tokens: int) -> None:
    payload = codecs.encode(normal(num_tokens, width), codec)
    assert payload.num_tokens == num_tokens
    assert len(payload.data) == num_tokens * layout.position_bytes(codec, width)
    assert len(payload.data) == num_tokens * codecs.bytes_per_position(codec, width)
    assert codecs.decode(payload, width, torch.float32).shape == (num_tokens, width)


def test_int4_takes_the_share_of_float16_that_the_papers_file_says() -> None:
    share = codecs.bytes_per_position(types.Codec.INT4, 4096) / codecs.bytes_per_position(types.Codec.FLOAT16, 4096)
    assert share == pytest.approx(0.266, abs=0.001)


@pytest.mark.parametrize(
    ("codec", "dtype"),
    [
        (types.Codec.FLOAT32, torch.float32),
        (types.Codec.BFLOAT16, torch.bfloat16),
        (types.Codec.FLOAT16, torch.float16),
    ],
)
def test_raw_codecs_are_exact_for_their_own_dtype(codec: types.Codec, dtype: torch.dtype) -> None:
    hidden = normal(5, 48).to(dtype)
    hidden[2, 3] = float("nan")
    hidden[3, 4] = float("-inf")
    decoded = codecs.decode(codecs.encode(hidden, codec), 48, dtype)
    assert decoded.dtype is dtype
    assert torch.equal(decoded.view(torch.uint8), hidden.view(torch.uint8))


@pytest.mark.parametrize("source", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("codec", list(types.Codec))
def test_any_floating_dtype_is_taken(source: torch.dtype, codec: types.Codec) -> None:
    hidden = normal(2, 64).to(source)
    assert torch.allclose(round_trip(hidden, codec), hidden.float(), atol=0.6)


def test_views_and_gradients_are_taken_as_they_are() -> None:
    hidden = normal(6, 64).requires_grad_()
    for codec in types.Codec:
        assert codecs.encode(hidden[::2], codec) == codecs.encode(hidden.detach()[::2].contiguous(), codec)


@pytest.mark.parametrize("width", [48, 64, 256, 896, 4096])  # below, blocks are too small to spread an outlier
@pytest.mark.parametrize("hidden_of", [normal, with_outliers])
def test_quantised_codecs_keep_their_error_with_and_without_outliers(width: int, hidden_of: object) -> None:
    assert callable(hidden_of)
    hidden = hidden_of(64, width)
    assert relative_error(hidden, types.Codec.INT8) < INT8_ERROR
    assert relative_error(hidden, types.Codec.INT4) < INT4_ERROR


def test_the_rotation_saves_what_an_outlier_would_cost() -> None:
    """The channels beside the outliers: unrotated, one scale for all leaves them next to nothing."""
    hidden = with_outliers(64, 256)
    small = hidden[:, 1:128]
    unrotated_step = hidden[:, :64].abs().amax(dim=-1).mean() / 7.5
    error = (round_trip(hidden, types.Codec.INT4)[:, 1:128] - small).square().mean().sqrt()
    assert error < 0.15 * unrotated_step


@pytest.mark.parametrize("codec", [types.Codec.INT8, types.Codec.INT4])
def test_an_offset_that_all_channels_share_spreads_over_the_levels(codec: types.Codec) -> None:
    hidden = normal(16, 256) * 0.1 + 5.0
    assert relative_error(hidden, codec) < INT4_ERROR


@pytest.mark.parametrize("codec", [types.Codec.INT8, types.Codec.INT4])
def test_quantised_codecs_scale_with_the_position(codec: types.Codec) -> None:
    """Each position has scales of its own: tiny, huge and zero positions do not disturb one another."""
    hidden = normal(5, 128) * torch.tensor([1.0, 1e-6, 1e6, 0.0, 1e15]).unsqueeze(-1)
    decoded = round_trip(hidden, codec)
    assert torch.equal(decoded[3], torch.zeros(128))
    for index in (0, 1, 2, 4):
        assert float((decoded[index] - hidden[index]).norm() / hidden[index].norm()) < INT4_ERROR
    alone = round_trip(hidden[1:2], codec)
    assert torch.allclose(alone, decoded[1:2], rtol=1e-5, atol=0)


@pytest.mark.parametrize("codec", [types.Codec.INT8, types.Codec.INT4])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_position_that_is_not_finite_stays_so_and_alone(codec: types.Codec, value: float) -> None:
    hidden = normal(3, 130)
    hidden[1, 5] = value
    decoded = round_trip(hidden, codec)
    assert not decoded[1, 5].isfinite()
    assert decoded[0].isfinite().all()
    assert decoded[2].isfinite().all()


def test_float16_saturates_finite_numbers_beyond_its_range() -> None:
    hidden = torch.tensor([[70000.0, -1e9, 1.0, float("inf")]])
    assert round_trip(hidden, types.Codec.FLOAT16).tolist() == [[65504.0, -65504.0, 1.0, float("inf")]]


@pytest.mark.parametrize("codec", list(types.Codec))
@pytest.mark.parametrize("change", [-1, 1])
def test_a_payload_of_another_size_is_refused_with_the_expected_size(codec: types.Codec, change: int) -> None:
    payload = codecs.encode(normal(2, 64), codec)
    data = payload.data[:change] if change < 0 else payload.data + b"\0"
    with pytest.raises(errors.ShapeMismatch, match=str(len(payload.data))) as caught:
        codecs.decode(types.Payload(codec, 2, data), 64, torch.float32)
    assert caught.value.field == "payload.data"
