"""Drafters learn beside every promised family of targets, and some that differ in their norms and heads."""

from __future__ import annotations

import pathlib

import pytest
import torch
from tests.numerics import tiny_models

from milliner.model import adapter as adapters
from milliner.model import drafter_config, drafter_objectives, drafter_setup, drafter_target

OTHERS = ("cohere", "olmo", "starcoder2", "gpt_oss", "granite")
CPU = torch.device("cpu")


@pytest.mark.parametrize("case", [*tiny_models.PROMISED, *OTHERS])
def test_an_adapter_learns_a_batch_of_any_family(case: str, tmp_path: pathlib.Path) -> None:
    torch.set_num_threads(1)
    tiny_models.save(case, tmp_path)
    target = drafter_target.FrozenTarget(tmp_path, split_layer=1, dtype=torch.float32, torch_device=CPU)
    config = drafter_config.TrainingConfig(
        model=tmp_path,
        split_layer=1,
        text=(),
        out=tmp_path,
        form=adapters.AdapterForm.LAYER_WITH_DEEP_STATE,
        num_passes=2,
    )
    drafter, objective = drafter_setup.drafter_and_objective(config, target)
    assert isinstance(objective, drafter_objectives.AdapterObjective)
    features = target.features(tiny_models.prompt(48).view(2, 24))
    optimizer = torch.optim.Adam(drafter.parameters(), lr=1e-2)
    losses = []
    for _ in range(12):
        loss, _ = objective.loss(features, generator=torch.Generator().manual_seed(1), with_tally=False)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.05


def test_features_equal_what_transformers_computes(tmp_path: pathlib.Path) -> None:
    reference = tiny_models.save("qwen3", tmp_path)
    target = drafter_target.FrozenTarget(tmp_path, split_layer=2, dtype=torch.float32, torch_device=CPU)
    ids = tiny_models.prompt(36).view(3, 12)
    with torch.no_grad():
        expected = reference(ids, output_hidden_states=True)
    found = target.features(ids)
    torch.testing.assert_close(found.hidden, expected.hidden_states[2], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        target.logits(found.deep.flatten(0, 1)).view(3, 12, -1), expected.logits, rtol=1e-4, atol=1e-4
    )
