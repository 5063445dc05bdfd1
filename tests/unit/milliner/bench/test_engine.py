"""`milliner bench engine` on a model small enough for a test: both sides compute the same, and the report is whole."""

from __future__ import annotations

import io

import pytest
import rich.console
import torch
import transformers

from milliner.bench import engine, engine_model
from milliner.core import errors
from milliner.model import kv_cache, ragged

TINY = engine_model.Shape(layers=2, hidden_size=64, heads=4, kv_heads=2, intermediate_size=96)
CPU = torch.device("cpu")


def test_both_sides_compute_the_same() -> None:
    bare = engine_model.BareLayers(TINY, dtype=torch.float32, torch_device=CPU)
    model_slice = engine_model.slice_of(bare, TINY, dtype=torch.float32)
    hidden = torch.randn(21, 64)
    bare_cache = transformers.DynamicCache()
    sequence = kv_cache.PagedKVCache(model_slice.kv_spec, num_pages=2, dtype=torch.float32, torch_device=CPU).open()
    for start, end in ((0, 20), (20, 21)):  # a prompt, then one token behind it
        sequence.reserve(end - start)
        batch = ragged.RaggedBatch.build(
            [ragged.Segment(sequence, start=start, num_tokens=end - start)], torch_device=CPU
        )
        ours = model_slice.forward(hidden[start:end], batch)
        bares = bare.forward(hidden[None, start:end], bare_cache, start)[0]
        # Two attention paths sum in another order.
        torch.testing.assert_close(ours, bares, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(bares, hidden[start:end], atol=1e-3)  # layers that pass all through compare nothing


def test_the_bare_cache_goes_back_to_the_cached_tokens_before_every_turn() -> None:
    bare = engine_model.BareLayers(TINY, dtype=torch.float32, torch_device=CPU)
    hidden = torch.randn(11, 64).repeat(2, 1, 1)
    plain = transformers.DynamicCache()
    bare.forward(hidden[:, :10], plain, 0)
    expected = bare.forward(hidden[:, 10:], plain, 10)
    filled = bare.filled(hidden[0, :10], sequences=2)
    for _ in range(2):
        engine_model.truncate(filled, 10)
        torch.testing.assert_close(bare.forward(hidden[:, 10:], filled, 10), expected)


def test_the_report_has_a_row_per_cell_and_the_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = (
        engine.Cell("prefill", 1, 0, 12),
        engine.Cell("decode", 1, 5, 1),
        engine.Cell("decode", 16, 5, 1),
    )
    monkeypatch.setattr(engine, "CELLS", cells)
    console = rich.console.Console(file=io.StringIO())
    report = engine.run(
        engine.Options(shape=TINY, turns=2, threads=1), command="milliner bench engine", console=console
    )
    assert [(row["phase"], row["sessions"], row["batched_tokens"]) for row in report.rows] == [
        ("prefill", 1, 12),
        ("decode", 1, 1),
        ("decode", 16, 16),
    ]
    assert all(float(row["ratio_to_bare"] or 0) > 0 for row in report.rows)
    single, many = (float(row["tokens_per_s"] or 0) for row in report.rows[1:])
    assert report.summary["tokens_per_s_16_over_1"] == pytest.approx(many / single)
    assert report.summary["ratio_to_bare_max"] == max(float(row["ratio_to_bare"] or 0) for row in report.rows)


@pytest.mark.parametrize(("options", "field"), [({"dtype": "int8"}, "--dtype"), ({"torch_device": "tpu"}, "--device")])
def test_unknown_dtypes_and_devices_are_refused(options: dict[str, str], field: str) -> None:
    with pytest.raises(errors.ConfigError) as refusal:
        engine.run(engine.Options(shape=TINY, **options), command="", console=rich.console.Console())  # type: ignore[arg-type]
    assert refusal.value.field == field
