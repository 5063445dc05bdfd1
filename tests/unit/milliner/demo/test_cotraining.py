"""The finish with a draft layer: agreement rises, and the draft layer is the adapter that is exported."""

from __future__ import annotations

import dataclasses
import pathlib

import pytest
import torch
from tests.unit.milliner.demo import test_pretraining

from milliner.demo import cotrain, finish, network
from milliner.model import drafter_unroll

SHAPE = dataclasses.replace(test_pretraining.SHAPE, num_hidden_layers=4)
CONFIG = finish.FinishConfig(
    split_layer=1,
    schedule=dataclasses.replace(
        finish.schedule(max_minutes=1.0),
        batch_sequences=4,
        sequence_tokens=24,
        long_batch_sequences=1,
        long_sequence_tokens=48,
    ),
    compile=False,
)


@pytest.fixture(autouse=True)
def single_thread() -> None:
    torch.set_num_threads(1)


def random_network() -> network.Network:
    torch.manual_seed(2)
    made = network.Network(SHAPE)
    for parameter in made.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.2)
    return made


def test_the_divergence_falls(tmp_path: pathlib.Path) -> None:
    run = finish.FinishRun(CONFIG, tmp_path, random_network(), test_pretraining.text())
    run.loop.one_step(0.0)
    before = run.network.last
    for _ in range(60):
        run.loop.one_step(0.5)
    assert run.network.last[1] < 0.6 * before[1]
    assert run.network.last[0] < before[0]


def test_resuming_goes_on_with_the_next_batch(tmp_path: pathlib.Path) -> None:
    whole = finish.FinishRun(CONFIG, tmp_path / "whole", random_network(), test_pretraining.text())
    for _ in range(4):
        whole.loop.one_step(0.2)
    broken = finish.FinishRun(CONFIG, tmp_path / "broken", random_network(), test_pretraining.text())
    for _ in range(2):
        broken.loop.one_step(0.2)
    broken.loop.save()
    resumed = finish.FinishRun(CONFIG, tmp_path / "broken", random_network(), test_pretraining.text())
    assert resumed.loop.step == 2
    for _ in range(2):
        resumed.loop.one_step(0.2)
    for one, other in zip(whole.network.parameters(), resumed.network.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_the_exported_adapter_is_the_draft_layer() -> None:
    trained = cotrain.CotrainedNetwork(random_network(), split_layer=1, weights=cotrain.CotrainWeights())
    for parameter in trained.draft.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    hidden = torch.randn(2, 20, SHAPE.hidden_size)
    with torch.no_grad():
        expected = trained.draft(hidden, *trained.target.rope(20))
        made = cotrain.as_adapter(trained)
        (states,) = drafter_unroll.unroll(
            made, hidden, hidden, first_known=torch.zeros(2, dtype=torch.long), num_passes=1
        )
    torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-4)


def test_the_targets_own_share_of_the_gradient() -> None:
    final, drafted = torch.randn(1, 6, 16, requires_grad=True), torch.randn(1, 6, 16)
    weight, following = torch.randn(40, 16), torch.zeros(1, 6, dtype=torch.long)
    gradients = []
    for share in (0.0, 0.5, 1.0):
        _, divergence, _ = cotrain.joint_losses(final, drafted, weight, following, share)
        (gradient,) = torch.autograd.grad(divergence, final)
        gradients.append(gradient)
    assert not gradients[0].any()
    torch.testing.assert_close(2 * gradients[1], gradients[2])
