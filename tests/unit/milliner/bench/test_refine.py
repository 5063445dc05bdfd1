"""What a refined prompt is worth: selections of equal size, an answer behind its own prompt, a whole report."""

from __future__ import annotations

import pathlib
import random

import pytest
import torch
from tests.unit.milliner.bench import looking_back
from tests.unit.milliner.model import drafter_models

from milliner.bench import far_prompts, refine, refine_report, refined_answers, selections
from milliner.core import errors

SCORES = [0.0] * 60 + [1.0] * 20 + [0.0] * 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    torch.set_num_threads(1)
    made = tmp_path_factory.mktemp("refine")
    drafter_models.write_llama(made / "model")
    drafter_models.write_text(made / "prose.txt", repeats=60)
    drafter_models.write_text(made / "code.py", repeats=60)
    return made


@pytest.mark.parametrize("keep_share", [0.01, 0.3, 0.5, 0.7])
def test_selections_keep_equally_many_positions_and_the_last(keep_share: float) -> None:
    chosen = selections.choose(SCORES, keep_share=keep_share, draws=2, seed="s")
    tokens = list(range(len(SCORES)))
    assert {each.selection for each in chosen} == set(selections.Selection)
    for each in chosen:
        kept = each.of(tokens)
        assert len(kept) == round(keep_share * len(SCORES))
        assert list(kept) == sorted(set(kept)) and kept[-1] == tokens[-1]
    drawn = [each.spans for each in chosen if each.selection is selections.Selection.RANDOM]
    assert keep_share < 0.02 or drawn[0] != drawn[1]
    assert chosen == selections.choose(SCORES, keep_share=keep_share, draws=2, seed="s")


def test_answers_fit_best_behind_their_own_prompt(folder: pathlib.Path) -> None:
    reader = refined_answers.Reader(folder / "model")
    prompt = [5, 9, 120, 33, 77, 250, 8, 14, 90, 41]
    answers = reader.answer(prompt, 12, seed=3)
    whole, shorter = reader.fits([prompt, prompt[5:]], answers)
    assert whole.agreement == 1.0
    entropy = -(answers.expected * answers.expected.log()).sum(dim=-1).mean()
    assert whole.log_likelihood == pytest.approx(-float(entropy), abs=1e-4)
    assert shorter.log_likelihood < whole.log_likelihood - 1e-3
    assert shorter.greedy_log_likelihood != pytest.approx(whole.greedy_log_likelihood, abs=1e-3)
    assert len(answers.scores) == len(prompt) and min(answers.scores) > 0.0
    assert answers.sampled != answers.greedy


def test_where_an_answer_needs_what_is_far_back_the_refiner_beats_random_and_head_and_tail(
    tmp_path: pathlib.Path,
) -> None:
    """All of the last positions but the very last look everywhere; there is room for one unit in the middle."""
    reader = refined_answers.Reader(looking_back.write(tmp_path))
    measured = []
    for number in range(16):
        draw = random.Random(number)
        prompt = [draw.choice(looking_back.FILLERS) for _ in range(200)]
        main, side = draw.choice(looking_back.MAIN), draw.choice(looking_back.SIDE)
        prompt[draw.randrange(150)], prompt[draw.randrange(175, 199)] = main, side
        prompt[-1] = looking_back.QUESTION
        answers = reader.answer(prompt, 4, seed=number)
        assert answers.greedy == (looking_back.VALUE_OF[main],) * 4
        kept = selections.choose(answers.scores, keep_share=0.3, draws=1, seed=str(number))
        fits = reader.fits([each.of(prompt) for each in kept], answers)
        measured.append({each.selection: fit for each, fit in zip(kept, fits, strict=True)})
    assert all(fits[selections.Selection.ATTENTION].agreement == 1.0 for fits in measured)
    for other in refine_report.TO_BEAT:
        found = refine_report.gains(measured, other)
        assert {gain.verdict for gain in found.values()} == {"met"}
        assert found["agreement"].mean > 0.3 and found["log_likelihood"].mean > 0.5


def test_the_report_has_every_selection_of_every_text_at_every_ratio(folder: pathlib.Path) -> None:
    options = refine.Options(
        model=folder / "model",
        texts=(folder / "prose.txt", folder / "code.py"),
        keep_percents=(30, 60),
        prompts=4,
        prompt_tokens=120,
    )
    done: list[str] = []
    result = refine.run(options, command="test", advance=done.append)
    assert done[-1] == "12 of 12 prompts"
    keys = {(row["kind"], row["keep_percent"], row["text"], row["selection"]) for row in result.rows}
    assert len(keys) == len(result.rows) == 3 * 2 * 3 * len(selections.Selection)
    assert {row["prompts"] for row in result.rows if row["text"] == "all"} == {4}
    assert set(result.summary) == set(far_prompts.Kind)
    assert len(result.headlines) == 3 * 2


@pytest.mark.parametrize("percents", [(), (0,), (30, 100)])
def test_ratios_that_keep_nothing_or_all_are_refused(percents: tuple[int, ...]) -> None:
    with pytest.raises(errors.ConfigError) as caught:
        refine.run(refine.Options(keep_percents=percents), command="test")
    assert caught.value.field == "--keep"
