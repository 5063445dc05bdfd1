"""Which layers are watched: few, of the upper layers, and such as see the whole prompt."""

from __future__ import annotations

import pytest

from milliner.model import kv_cache, prompt_watch


def spec(windows: list[int | None], *, first_layer: int = 0) -> kv_cache.KVSpec:
    return kv_cache.KVSpec(first_layer, tuple(kv_cache.LayerKV(1, 1, window) for window in windows))


@pytest.mark.parametrize(
    ("num_layers", "chosen"),
    [(1, {0}), (2, {0, 1}), (4, {1, 2, 3}), (8, {3, 4, 6, 7}), (32, {14, 19, 24, 29})],
)
def test_few_layers_evenly_spread_above_the_first(num_layers: int, chosen: set[int]) -> None:
    assert prompt_watch.choose_layers(spec([None] * num_layers)) == chosen


def test_layers_with_windows_only_where_there_are_no_others() -> None:
    mixed = [None, 9, 9] * 8
    assert prompt_watch.choose_layers(spec(mixed, first_layer=3)) == {12, 15, 21, 24}
    assert prompt_watch.choose_layers(spec([9] * 8)) == {3, 4, 6, 7}
