"""Which layers are watched: few, of the second quarter, and such as see the whole prompt."""

from __future__ import annotations

import pytest

from milliner.model import kv_cache, prompt_watch


def spec(windows: list[int | None], *, first_layer: int = 0) -> kv_cache.KVSpec:
    return kv_cache.KVSpec(first_layer, tuple(kv_cache.LayerKV(1, 1, window) for window in windows))


@pytest.mark.parametrize(
    ("num_layers", "chosen"),
    [(1, {0}), (2, {0}), (4, {1}), (8, {2, 3}), (12, {3, 4, 5}), (32, {9, 11, 13, 15}), (80, {22, 27, 32, 37})],
)
def test_few_layers_of_the_second_quarter(num_layers: int, chosen: set[int]) -> None:
    assert prompt_watch.choose_layers(spec([None] * num_layers)) == chosen


def test_layers_with_windows_only_where_there_are_no_others() -> None:
    mixed = [None, 9, 9] * 8
    assert prompt_watch.choose_layers(spec(mixed, first_layer=3)) == {9, 12}
    assert prompt_watch.choose_layers(spec([9] * 8)) == {2, 3}
