"""Training on to look far back: it starts from the layers of an exported target, learns, and what ships can quote."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy
import pytest
import torch

from milliner.demo import assets, export, network, pretrain, pruned, recall, repeats, training_loop

SHAPE = network.Shape(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, head_dim=8
)


@pytest.fixture(autouse=True)
def single_thread() -> None:
    torch.set_num_threads(1)


def exported(folder: pathlib.Path) -> network.Network:
    torch.manual_seed(0)
    target = network.Network(SHAPE)
    for parameter in target.parameters():
        parameter.data = (torch.randn_like(parameter) * 0.2 + (parameter.ndim == 1)).bfloat16().float()
    export.write_model(target, folder)
    return target


def test_the_start_computes_what_the_kept_layers_do(tmp_path: pathlib.Path) -> None:
    target = exported(tmp_path)
    ids = torch.randint(0, 64, (2, 9))
    whole = pruned.load(tmp_path, SHAPE, (0, 1, 2))
    with torch.no_grad():
        torch.testing.assert_close(whole.hidden(ids), target.hidden(ids))
        del target.layers[1]
        fewer = pruned.load(tmp_path, SHAPE, (0, 2))
        torch.testing.assert_close(fewer.hidden(ids), target.hidden(ids))
    assert fewer.shape.num_hidden_layers == 2


def test_training_on_lowers_the_loss_where_passages_come_again(tmp_path: pathlib.Path) -> None:
    exported(tmp_path / "target")
    schedule = training_loop.Schedule(
        seed=1,
        max_minutes=10.0,
        max_steps=25,
        batch_sequences=4,
        sequence_tokens=96,
        long_batch_sequences=1,
        long_sequence_tokens=128,
        warmup_steps=3,
    )
    config = recall.RecallConfig(
        training=pretrain.PretrainConfig(
            shape=SHAPE, schedule=schedule, learning_rate=5e-3, matrix_learning_rate=1e-2, compile=False
        ),
        layers=(0, 2),
    )
    text = numpy.random.default_rng(0).integers(2, 40, 20_000).astype(numpy.uint16)
    run = recall.RecallRun(
        config,
        tmp_path / "run",
        pruned.load(tmp_path / "target", SHAPE, config.layers),
        train=text,
        held_out=text[-14_000:],
        lines=[[40 + number, 62, 50 - number] for number in range(8)],
    )
    before = run.task.probe()
    reports: list[training_loop.Progress] = []
    run.loop.train(reports.append)
    after = run.task.probe()
    assert set(before) == {"plain", *(f"again_after_{gap}" for gap in recall.PROBE_GAPS)}
    assert after["plain"] < before["plain"] - 0.5 and run.task.held_out_loss() == after["plain"]
    assert run.loop.step == 25 and reports[-1].share == 1.0


def test_what_ships_knows_a_passage_that_it_has_seen_before() -> None:
    shape = dataclasses.replace(network.Shape(), num_hidden_layers=len(recall.KEPT_LAYERS))
    shipped = pruned.load(assets.recall_dir(), shape, range(len(recall.KEPT_LAYERS)))
    ids = numpy.random.default_rng(2).integers(repeats.SPECIAL_IDS, shape.vocab_size, 200)
    ids[160:200] = ids[20:60]  # nothing but the place further up says how it goes on
    window = torch.from_numpy(ids)[None]
    with torch.no_grad():
        logits = (shipped.hidden(window[:, :-1]) @ shipped.embedding.weight.t())[0]
    known = logits.argmax(-1) == window[0, 1:]
    assert known[170:].float().mean() > 0.7
    assert known[:150].float().mean() < 0.05
