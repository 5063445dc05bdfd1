"""Rounds of drafting: greedy answers are the target's own, and a perfect drafter is accepted whole."""

from __future__ import annotations

import pathlib

import pytest
import torch
from tests.unit.milliner.model import drafter_models

from milliner.bench import acceptance, draft_rounds
from milliner.core import types
from milliner.model import adapter as adapters
from milliner.model import digest, drafter_file, drafter_target, sampling

GREEDY = sampling.Picker(types.SamplingParams(), seed=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    torch.set_num_threads(1)
    made = tmp_path_factory.mktemp("acceptance")
    drafter_models.write_llama(made / "model")
    drafter_models.write_text(made / "text.txt", repeats=300)
    return made


@pytest.fixture(scope="module")
def target(folder: pathlib.Path) -> drafter_target.FrozenTarget:
    return drafter_target.FrozenTarget(
        folder / "model", split_layer=1, dtype=torch.float32, torch_device=torch.device("cpu")
    )


def make_adapter(
    target: drafter_target.FrozenTarget, form: adapters.AdapterForm = adapters.AdapterForm.LAYER_WITH_DEEP_STATE
) -> adapters.Adapter:
    torch.manual_seed(5)
    made = adapters.Adapter(adapters.AdapterConfig.from_target(target.checkpoint.config, form=form))
    return made.eval().requires_grad_(False)


def plain_answer(target: drafter_target.FrozenTarget, prompt: list[int], count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        deep = target.features(torch.tensor([ids])).deep
        ids.append(int(target.logits(deep[0, -1:])[0].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("form", list(adapters.AdapterForm))
def test_greedy_rounds_emit_what_the_target_alone_would(
    target: drafter_target.FrozenTarget, form: adapters.AdapterForm
) -> None:
    prompt = [5, 9, 120, 33, 77, 250, 8]
    expected = plain_answer(target, prompt, 20)
    rounds = draft_rounds.DraftRounds(target, make_adapter(target, form), max_tokens=64)
    answer = [int(rounds.prefill(prompt).argmax())]
    while len(answer) < 20:
        answer += rounds.round(answer[-1], num_drafts=3, picker=GREEDY).emitted
    assert answer[:20] == expected
    assert rounds.position == len(prompt) + len(answer) - 1


class Oracle(adapters.Adapter):
    """An adapter whose drafts are always right: it hands out the deep states that the target will have."""

    def tell(self, deep: torch.Tensor, normed: torch.Tensor) -> None:
        self._answers = (deep, normed)

    def forward(self, hidden, batch, *, deep=None, deep_known=None):  # type: ignore[no-untyped-def]
        batch.commit()
        places = batch.positions
        return adapters.Drafted(states=self._answers[0][places], normed=self._answers[1][places])


def test_a_perfect_drafter_has_every_draft_accepted(target: drafter_target.FrozenTarget) -> None:
    prompt = [5, 9, 120, 33, 77]
    ids = [*prompt, *plain_answer(target, prompt, 30)]
    deep = target.features(torch.tensor([ids])).deep[0]
    oracle = Oracle(make_adapter(target).config)
    oracle.tell(deep, target.final_norm(deep))
    rounds = draft_rounds.DraftRounds(target, oracle, max_tokens=64)
    root = int(rounds.prefill(prompt).argmax())
    made = rounds.round(root, num_drafts=8, picker=GREEDY)
    assert made.num_accepted == 8
    assert list(made.emitted) == ids[len(prompt) + 1 : len(prompt) + 10]


def test_returning_forgets_the_rounds_since(target: drafter_target.FrozenTarget) -> None:
    rounds = draft_rounds.DraftRounds(target, make_adapter(target), max_tokens=64)
    rounds.prefill([5, 9, 120, 33])
    first = rounds.round(7, num_drafts=4, picker=GREEDY)
    rounds.return_to(4)
    rounds.append([1, 2, 3])
    rounds.return_to(4)
    assert rounds.round(7, num_drafts=4, picker=GREEDY) == first


def test_the_report_has_a_row_per_adapter_and_mode(folder: pathlib.Path, target: drafter_target.FrozenTarget) -> None:
    drafter = make_adapter(target)
    card = drafter_file.Card(
        kind=drafter_file.DrafterKind.ADAPTER,
        form=drafter.config.form.value,
        model_digest=digest.model_digest(folder / "model"),
        split_layer=1,
        dtype="float32",
        sizes=drafter_file.sizes_of(drafter),
    )
    drafter_file.save(folder / "adapter", drafter, card)
    options = acceptance.Options(
        model=folder / "model",
        adapters=(folder / "adapter",),
        texts=(folder / "text.txt",),
        prompt_tokens=64,
        text_tokens=24,
    )
    report = acceptance.run(options, command="milliner bench acceptance")
    assert [row["mode"] for row in report.rows] == ["text", "sampled", "greedy"]
    for name in ("text", "sampled", "greedy"):
        length = report.summary[f"acceptance_length_{name}"]
        assert isinstance(length, float)
        assert 1.0 <= length <= 9.0
