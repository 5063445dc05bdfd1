"""Training of drafters: the loss falls, a resumed run ends where an unbroken one does, wrong input is named."""

from __future__ import annotations

import dataclasses
import pathlib

import pytest
import torch
from tests.unit.milliner.model import drafter_models

from milliner.core import errors
from milliner.model import adapter as adapters
from milliner.model import (
    digest,
    drafter_checkpoint,
    drafter_config,
    drafter_features,
    drafter_file,
    drafter_text,
    drafter_training,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    torch.set_num_threads(1)
    made = tmp_path_factory.mktemp("drafters")
    drafter_models.write_llama(made / "model")
    drafter_models.write_text(made / "text.txt")
    return made


def config(folder: pathlib.Path, out: pathlib.Path, **changes: object) -> drafter_config.TrainingConfig:
    plain = drafter_config.TrainingConfig(
        model=folder / "model",
        split_layer=1,
        text=(folder / "text.txt",),
        out=out,
        steps=40,
        batch_windows=4,
        window_tokens=32,
        learning_rate=1e-2,
        held_out_tokens=128,
        torch_device="cpu",
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        (drafter_file.DrafterKind.ADAPTER, adapters.AdapterForm.ATTENTION),
        (drafter_file.DrafterKind.ADAPTER, adapters.AdapterForm.LAYER),
        (drafter_file.DrafterKind.ADAPTER, adapters.AdapterForm.LAYER_WITH_DEEP_STATE),
        (drafter_file.DrafterKind.MEDUSA, adapters.AdapterForm.LAYER),
    ],
)
def test_training_lowers_the_loss(
    folder: pathlib.Path, tmp_path: pathlib.Path, kind: drafter_file.DrafterKind, form: adapters.AdapterForm
) -> None:
    # The target's final norm is where the adapter starts: training improves on what that gives.
    run = drafter_training._Run(config(folder, tmp_path, kind=kind, form=form))
    before, _ = run._one_step(0.0)
    for _ in range(38):
        run._one_step(0.1)
    after, _ = run._one_step(0.1)
    assert after < before - 0.02
    card = run.finish()
    assert card.kind is kind
    assert card.figures is not None
    assert 0.0 <= card.figures.expected_acceptance <= 1.0 <= card.figures.acceptance_length <= 9.0


def test_a_resumed_run_ends_where_an_unbroken_one_does(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    whole = drafter_training._Run(config(folder, tmp_path / "whole"))
    for step in range(6):
        whole._one_step(step / 6)
    broken = drafter_training._Run(config(folder, tmp_path / "broken"))
    for step in range(3):
        broken._one_step(step / 6)
    broken.save()
    resumed = drafter_training._Run(config(folder, tmp_path / "broken", resume=True, seed=1))
    assert resumed._counters.step == 3
    for step in range(3, 6):
        resumed._one_step(step / 6)
    for (name, one), other in zip(
        whole._drafter.state_dict().items(), resumed._drafter.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(one, other, msg=name)


def test_a_checkpoint_of_another_form_is_not_resumed(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    drafter_training._Run(config(folder, tmp_path)).save()
    with pytest.raises(errors.ConfigError, match=r"another --form") as caught:
        drafter_training._Run(config(folder, tmp_path, resume=True, form=adapters.AdapterForm.ATTENTION))
    assert caught.value.field == "--resume"


def test_train_reports_and_writes_a_folder_that_loads(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    reports: list[drafter_training.TrainingProgress] = []
    card = drafter_training.train(config(folder, tmp_path, steps=4), reports.append)
    assert reports[-1].share == 1.0
    assert reports[-1].eta_s == 0.0
    assert card.steps == 4
    assert not (tmp_path / drafter_checkpoint.FILE).exists()
    model_digest = digest.model_digest(folder / "model")
    loaded = drafter_file.load_adapter(tmp_path, model_digest=model_digest, split_layer=1)
    assert loaded.config.form is adapters.AdapterForm.LAYER
    assert drafter_file.read_card(tmp_path) == card


def test_the_last_step_is_reported_though_its_agreement_was_not_looked_at(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    reports: list[drafter_training.TrainingProgress] = []
    steps = drafter_training.TALLY_EVERY_STEPS + 3
    drafter_training.train(config(folder, tmp_path, steps=steps), reports.append)
    assert (reports[-1].step, reports[-1].share) == (steps, 1.0)
    assert 0.0 < reports[-1].expected_acceptance < 1.0


def test_measuring_ends_after_a_share_of_the_training_time_and_says_how_far_it_is(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    def measured(**limits: float) -> tuple[int, list[float]]:
        shares: list[float] = []
        changed = config(folder, tmp_path, steps=1, window_tokens=16, **limits)
        card = drafter_training.train(changed, lambda _: None, on_measuring=shares.append)
        assert card.figures is not None
        return card.figures.held_out_tokens, shares

    tokens, shares = measured(measure_share=0.0, measure_at_least_s=600.0, held_out_tokens=64)
    assert shares == sorted(set(shares))  # no report twice
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert len(shares) > 3
    assert measured(measure_share=0.0, measure_at_least_s=0.0, held_out_tokens=64) == (tokens / 4, [0.0, 1.0])


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"split_layer": 3}, "--split-layer", "use 1 to 2"),
        ({"split_layer": 0}, "--split-layer", "use 1 to 2"),
        ({"text": (pathlib.Path("missing.txt"),)}, "--text", "missing.txt cannot be read"),
        ({"held_out": (pathlib.Path("missing.txt"),)}, "--held-out", "missing.txt cannot be read"),
        ({"window_tokens": 512}, "--window-tokens", "context is 256"),
        ({"torch_device": "quantum"}, "--device", "no device of torch"),
    ],
)
def test_wrong_input_is_named(
    folder: pathlib.Path, tmp_path: pathlib.Path, changes: dict[str, object], field: str, message: str
) -> None:
    with pytest.raises(errors.ConfigError, match=message) as caught:
        drafter_training.train(config(folder, tmp_path, **changes), lambda _: None)
    assert caught.value.field == field


def test_text_shorter_than_a_window_is_refused(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    short = drafter_models.write_text(tmp_path / "short.txt", repeats=1)
    with pytest.raises(errors.ConfigError, match="a window takes 200") as caught:
        drafter_text.load(folder / "model", [short], window_tokens=200)
    assert caught.value.field == "--text"


def test_held_out_text_is_not_trained_on(folder: pathlib.Path) -> None:
    text = drafter_text.load(folder / "model", [folder / "text.txt"], window_tokens=32)
    whole = drafter_text.load(folder / "model", [folder / "text.txt"], held_out=[folder / "text.txt"], window_tokens=32)
    torch.testing.assert_close(torch.cat([text.train, text.held_out]), whole.train)


def test_cached_features_are_made_once_and_trained_on(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    changes: dict[str, object] = {"feature_cache": tmp_path / "features.pt", "cached_tokens": 640, "steps": 3}
    first = drafter_training._Run(config(folder, tmp_path / "one", **changes))
    written = (tmp_path / "features.pt").stat().st_mtime_ns
    second = drafter_training._Run(config(folder, tmp_path / "two", **changes))
    assert (tmp_path / "features.pt").stat().st_mtime_ns == written
    assert isinstance(second._source, drafter_features.CachedFeatures)
    hidden, deep = second._source.windows[32]
    assert hidden.shape == deep.shape == (20, 32, 32)
    text = first._text.batch(count=20, length=32, seed=32, step=0)
    expected = first._target.features(text)
    torch.testing.assert_close(hidden.float(), expected.hidden, rtol=0.05, atol=0.05)
    loss, _ = second._one_step(0.0)
    assert loss > 0.0


def test_a_cache_of_another_split_is_refused(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    cache = tmp_path / "features.pt"
    drafter_training._Run(config(folder, tmp_path, feature_cache=cache, cached_tokens=64))
    with pytest.raises(errors.ConfigError, match="made with another --split-layer") as caught:
        drafter_training._Run(config(folder, tmp_path, feature_cache=cache, split_layer=2))
    assert caught.value.field == "--feature-cache"


def test_training_can_start_from_another_adapter(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    plain = drafter_training._Run(config(folder, tmp_path / "plain", steps=1))
    plain._one_step(0.0)
    plain.finish()
    form = adapters.AdapterForm.LAYER_WITH_DEEP_STATE
    run = drafter_training._Run(config(folder, tmp_path / "deep", form=form, start=tmp_path / "plain"))
    made = run._drafter.state_dict()
    for name, tensor in plain._drafter.state_dict().items():
        torch.testing.assert_close(made[name], tensor.bfloat16().float(), msg=name)
    assert not made["deep_proj.weight"].any()
    with pytest.raises(errors.ConfigError, match="no adapter that can be read") as caught:
        drafter_training._Run(config(folder, tmp_path / "none", start=tmp_path / "nowhere"))
    assert caught.value.field == "--start"
