"""Pretraining: the network is the Llama that `transformers` loads, training learns, resuming goes on."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy
import pytest
import torch
import transformers

from milliner.demo import export, network, pretrain, tokenizer, training_loop

SHAPE = network.Shape(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, head_dim=8
)
CONFIG = pretrain.PretrainConfig(
    shape=SHAPE,
    schedule=training_loop.Schedule(
        seed=3,
        max_minutes=10.0,
        max_steps=60,
        batch_sequences=4,
        sequence_tokens=24,
        long_batch_sequences=1,
        long_sequence_tokens=48,
        warmup_steps=5,
    ),
    learning_rate=5e-3,
    matrix_learning_rate=1e-2,
    compile=False,
)


def made(folder: pathlib.Path, **schedule: float) -> pretrain.PretrainRun:
    changed = dataclasses.replace(CONFIG.schedule, **schedule)  # type: ignore[arg-type]
    return pretrain.PretrainRun(dataclasses.replace(CONFIG, schedule=changed), folder, text(), text(600))


@pytest.fixture(autouse=True)
def single_thread() -> None:
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()


def text(length: int = 4_000) -> training_loop.Ids:
    """Ids in which each follows from the one before, with a little noise."""
    generator = numpy.random.default_rng(0)
    ids = [1]
    for _ in range(length):
        ids.append(int((ids[-1] * 5 + 3 + (generator.random() < 0.05)) % 64))
    return numpy.array(ids, dtype=numpy.uint16)


@pytest.mark.parametrize("length", [network.QUERY_BLOCK_TOKENS + 9, 7])
def test_the_exported_model_computes_what_was_trained(tmp_path: pathlib.Path, length: int) -> None:
    torch.manual_seed(0)
    trained = network.Network(SHAPE)
    for parameter in trained.parameters():
        values = torch.randn_like(parameter) * 0.2 if parameter.ndim == 2 else torch.rand_like(parameter) + 0.5
        parameter.data = values.bfloat16().float()
    export.write_model(trained, tmp_path)
    served = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ids = torch.randint(0, 64, (2, length))
    with torch.no_grad():
        torch.testing.assert_close(
            trained.hidden(ids) @ trained.embedding.weight.t(), served(ids).logits, rtol=1e-4, atol=1e-4
        )


def test_training_lowers_the_held_out_loss_and_reports(tmp_path: pathlib.Path) -> None:
    run = made(tmp_path)
    before = run.task.held_out_loss()
    reports: list[training_loop.Progress] = []
    run.loop.train(reports.append)
    assert run.task.held_out_loss() < before - 1.0
    assert (reports[-1].step, reports[-1].share, reports[-1].eta_s) == (60, 1.0, 0.0)
    assert reports[-1].figures["loss"] < reports[0].figures["loss"] - 1.0
    assert run.loop.tokens == 48 * 4 * 24 + 12 * 48  # the last fifth is on long sequences


def test_resuming_goes_on_with_the_next_batch(tmp_path: pathlib.Path) -> None:
    whole = made(tmp_path / "whole", max_steps=8)
    whole.loop.train(lambda _: None)
    broken = made(tmp_path / "broken", max_steps=8)
    for _ in range(3):
        broken.loop.one_step(broken.loop.share)
    broken.loop.save()
    resumed = made(tmp_path / "broken", max_steps=8)
    assert resumed.loop.step == 3
    resumed.loop.train(lambda _: None)
    for one, other in zip(whole.network.parameters(), resumed.network.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_spent_wall_clock_ends_the_run(tmp_path: pathlib.Path) -> None:
    run = made(tmp_path, max_minutes=1e-9)
    run.loop.train(lambda _: None)
    assert run.loop.step == 1


def test_checkpoints_come_with_the_held_out_loss(tmp_path: pathlib.Path) -> None:
    run, reports = made(tmp_path, max_steps=3, checkpoint_every_s=0.0), list[training_loop.Progress]()
    run.loop.train(reports.append)
    assert [report.step for report in reports] == [1, 2, 3]
    assert all(report.held_out_loss is not None for report in reports)
    assert made(tmp_path).loop.step == 3


def test_the_tokenizer_gives_back_any_text(tmp_path: pathlib.Path) -> None:
    trained = tokenizer.train(["def f(x):\n    return x\n", "In the beginning"], vocabulary_size=300)
    tokenizer.save(trained, tmp_path, max_positions=128)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for sample in ("def f(x):\n    return x\n", "naïve ☃ \t\n\n  end", ""):
        assert loaded.decode(loaded(sample)["input_ids"]) == sample
    assert loaded.eos_token_id == tokenizer.END_OF_TEXT_ID
    assert loaded("a<|endoftext|>b")["input_ids"].count(0) == 1
    chat = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Yes"}]
    assert loaded.apply_chat_template(chat, tokenize=False) == "Hello\nYes\n"
