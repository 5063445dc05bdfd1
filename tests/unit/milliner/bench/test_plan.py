from __future__ import annotations

import collections
import itertools

import pytest

from milliner.bench import plan

Name = plan.StrategyName


def _plan(**changes: object) -> plan.Plan:
    fields: dict[str, object] = {
        "strategies": [Name.USHAPE, Name.HAT, Name.HAT_SEQUENTIAL],
        "codecs": ["float16", "int4"],
        "prompt_tokens": [128, 512],
        "temperatures": [0.0, 0.8],
        "requests": 3,
        "new_tokens": 64,
    }
    return plan.Plan(**{**fields, **changes})  # type: ignore[arg-type]


def test_every_cell_is_measured_as_often_as_asked() -> None:
    counted = collections.Counter(task.cell for task in _plan().tasks())
    assert set(counted) == set(_plan().cells)
    assert set(counted.values()) == {3}


def test_variants_alternate_and_each_repetition_starts_with_another() -> None:
    tasks = list(_plan().tasks())
    assert all(a.cell.variant != b.cell.variant for a, b in itertools.pairwise(tasks[:5]))
    firsts = [next(t for t in tasks if t.repetition == r).cell.variant for r in range(3)]
    assert len(set(firsts)) == 3


def test_hat_without_parallel_drafting_runs_with_the_first_codec_only() -> None:
    codecs = [v.codec for v in _plan().variants if v.strategy is Name.HAT_SEQUENTIAL]
    assert codecs == ["float16"]


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"strategies": []}, "--strategies"),
        ({"codecs": ["float16", "float16"]}, "--codecs"),
        ({"codecs": ["int2"]}, "--codecs"),
        ({"prompt_tokens": [0]}, "--prompt-tokens"),
        ({"temperatures": [3.0]}, "--temperatures"),
        ({"requests": 0}, "--requests"),
        ({"new_tokens": 1}, "--new-tokens"),
    ],
)
def test_a_choice_that_makes_no_run_names_its_option(changes: dict[str, object], option: str) -> None:
    with pytest.raises(plan.PlanError) as caught:
        _plan(**changes)
    assert caught.value.field == option
