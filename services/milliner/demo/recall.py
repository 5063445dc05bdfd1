"""`python -m milliner.demo.recall --out DIR`: trains the demo target on, to look far back, which text hardly taught it.

The start are six of the shipped target's layers; what it learns on are windows of the same training text in which
passages and definitions come again (`repeats`). Copying emerges within the first hundred thousand tokens, then reaches
further as the distances grow. The result quotes and looks up what stands anywhere in a prompt, as larger models do:
`milliner bench refine` needs a model that can. Run again to go on where it stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import random
import shutil
from collections.abc import Mapping, Sequence

import numpy
import rich.console
import tokenizers
import torch
from torch.nn import functional

from milliner.demo import assets, build, definitions, export, network, pretrain, pruned, repeats, tokenizer
from milliner.demo import corpus as corpora
from milliner.demo import training_loop as loops

KEPT_LAYERS = (0, 1, 3, 4, 6, 7)
"""Of the target's eight: without the other two its loss is 3.45 for 3.19 (24 windows of held-out text), 0.004 more than
without the pair that it needs least."""

DEFINITIONS = 20_000  # made up to train on (arbitrary)
PROBE_WINDOWS, PROBE_TOKENS, PASSAGE_TOKENS = 24, 512, 64
PROBE_SKIPPED_TOKENS = 8  # of a passage that comes again: until it is known to be one
PROBE_GAPS = (32, 128, 320)


@dataclasses.dataclass(frozen=True, slots=True)
class RecallConfig:
    """Rates and schedule; those of the shipped model."""

    training: pretrain.PretrainConfig
    layers: tuple[int, ...] = KEPT_LAYERS


def training(*, max_minutes: float) -> pretrain.PretrainConfig:
    """The last fifth is on windows of 1,024 tokens."""
    schedule = loops.Schedule(
        seed=7_000_001,
        max_minutes=max_minutes,
        long_batch_sequences=4,
        long_sequence_tokens=1024,
        decay_share=0.4,
        checkpoint_every_s=100.0,
    )
    return pretrain.PretrainConfig(schedule=schedule, matrix_learning_rate=2e-3, learning_rate=1.5e-3)


class Recall:
    """The task: the network's own loss."""

    def __init__(self, start: network.Network, held_out: loops.Ids, *, batch: int) -> None:
        self.network = start
        self._held_out, self._batch = held_out, batch

    def loss(self, ids: torch.Tensor, following: torch.Tensor) -> tuple[torch.Tensor, Mapping[str, float]]:
        loss: torch.Tensor = self.network(ids, following)
        return loss, {"loss": float(loss.detach())}

    def held_out_loss(self) -> float:
        """Of text as it is, in nats per token."""
        return self.probe()["plain"]

    @torch.no_grad()
    def probe(self) -> dict[str, float]:
        """Loss in nats per token, of held-out text as it is and of passages that come again, by the gap between."""
        windows = self._windows()
        found = {"plain": float(self._losses(windows).mean())}
        for gap in PROBE_GAPS:
            repeated = windows.clone()
            first = PROBE_TOKENS - 2 * PASSAGE_TOKENS - gap
            repeated[:, -PASSAGE_TOKENS:] = repeated[:, first : first + PASSAGE_TOKENS]
            found[f"again_after_{gap}"] = float(
                self._losses(repeated)[:, -PASSAGE_TOKENS + PROBE_SKIPPED_TOKENS :].mean()
            )
        return found

    def _windows(self) -> torch.Tensor:
        """[PROBE_WINDOWS, PROBE_TOKENS + 1], evenly spread over the held-out text."""
        apart = (len(self._held_out) - PROBE_TOKENS - 1) // PROBE_WINDOWS
        rows = [self._held_out[number * apart :][: PROBE_TOKENS + 1] for number in range(PROBE_WINDOWS)]
        return torch.from_numpy(numpy.stack(rows).astype(numpy.int64))

    def _losses(self, windows: torch.Tensor) -> torch.Tensor:
        """[N, T] of windows [N, T + 1], in the batches and precision of training."""
        rows = []
        for some in windows.split(self._batch):
            with torch.autocast("cpu", torch.bfloat16):
                logits = self.network.hidden(some[:, :-1].contiguous()) @ self.network.embedding.weight.t()
            rows.append(functional.cross_entropy(logits.float().transpose(1, 2), some[:, 1:], reduction="none"))
        return torch.cat(rows)


class RecallRun:
    """One training over token ids; `lines` are the ids of definitions."""

    def __init__(
        self,
        config: RecallConfig,
        folder: pathlib.Path,
        start: network.Network,
        *,
        train: loops.Ids,
        held_out: loops.Ids,
        lines: Sequence[Sequence[int]],
    ) -> None:
        schedule = config.training.schedule
        self.task = Recall(start, held_out, batch=schedule.batch_sequences)
        self.loop = loops.Loop(
            self.task,
            pretrain.optimizers(start, config.training),
            schedule,
            draw=repeats.repeating_windows(train, vocabulary_size=start.shape.vocab_size, definitions=lines),
            folder=folder,
            name="recall",
        )
        if config.training.compile:
            start.compile_parts()


def made_up_lines(vocabulary: tokenizers.Tokenizer, count: int = DEFINITIONS) -> list[list[int]]:
    """Ids of definitions that no bench asks for: other draws give other names."""
    draw = random.Random(1)
    texts = [definitions.line(definitions.name(draw), definitions.value(draw)) for _ in range(count)]
    return [encoded.ids for encoded in vocabulary.encode_batch(texts)]


def train(config: RecallConfig, out: pathlib.Path, console: rich.console.Console) -> None:
    """Trains, and writes `model` with its tokenizer and `training.json` under `out`."""
    model = out / "model"
    model.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(assets.model_dir() / name, model / name)
    text, held_out = build.token_ids(corpora.collect(), out)
    start = pruned.load(assets.model_dir(), config.training.shape, config.layers)
    lines = made_up_lines(tokenizer.load(model))
    run = RecallRun(config, out, start, train=text, held_out=held_out, lines=lines)
    before = run.task.probe()
    console.print(f"before: {json.dumps(before)}")

    def report(progress: loops.Progress) -> None:
        plain = "" if progress.held_out_loss is None else f" · held out {progress.held_out_loss:.3f}"
        minutes = progress.eta_s / 60
        console.print(f"step {progress.step} loss {progress.figures['loss']:.3f} ETA {minutes:.0f} min{plain}")

    run.loop.train(report)
    after = run.task.probe()
    console.print(f"after: {json.dumps(after)}")
    export.write_model(start, model)
    spent = {"steps": run.loop.step, "tokens": run.loop.tokens, "elapsed_s": run.loop.elapsed_s}
    (out / "training.json").write_text(json.dumps({"before": before, "after": after, **spent}, indent=2) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line and trains."""
    parser = argparse.ArgumentParser(prog="python -m milliner.demo.recall", description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of checkpoint, log and finished model")
    parser.add_argument("--max-minutes", type=float, default=20.0, help="wall-clock budget")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    config = RecallConfig(training=training(max_minutes=options.max_minutes))
    train(config, options.out, rich.console.Console())


if __name__ == "__main__":
    main()
