"""Builds the demo from nothing: corpus, tokenizer, target, held-out text, drafters. Every finished stage is kept.

Called by `python -m milliner.demo`. Each stage writes under one folder; what ships is `model`, `adapter`, `medusa` and
`heldout` below it, beside `corpus.json` and `training.json`, which record what was done.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import numpy
import numpy.typing
import rich.console
import rich.progress

from milliner.demo import corpus as corpora
from milliner.demo import drafters, export, pretrain, tokenizer
from milliner.model import drafter_training

Ids = numpy.typing.NDArray[numpy.uint16]


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """What to build, where, and for how long."""

    out: pathlib.Path
    max_minutes: float
    drafter_minutes: float
    texts: tuple[pathlib.Path, ...] = ()
    debian: bool = True
    compile: bool = True


def build(options: Options, console: rich.console.Console) -> None:
    """Runs all stages; run again after an interruption, it goes on from the last checkpoint."""
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    corpus = corpora.collect(debian=options.debian, extra=options.texts)
    console.print(f"corpus {corpus.digest[:16]}: {json.dumps(corpus.summary())}")
    _write_json(
        out / "corpus.json",
        {
            "digest": corpus.digest,
            "sources": corpus.summary(),
            "held_out": {document.name: document.digest for document in corpus.held_out},
        },
    )
    if not (out / "model" / "model.safetensors").is_file():
        _pretrain(options, corpus, console)
    export.write_held_out(corpus.held_out, out / "heldout")
    _train_drafters(options, corpus, console)


def token_ids(corpus: corpora.Corpus, out: pathlib.Path) -> tuple[Ids, Ids]:
    """Both sides in token ids, documents joined by end-of-text in a fixed order; trains the tokenizer if need be."""
    if not (out / "model" / "tokenizer.json").is_file():
        trained = tokenizer.train(document.text for document in corpus.train)
        tokenizer.save(trained, out / "model", max_positions=pretrain.PretrainConfig().shape.max_position_embeddings)
    vocabulary = tokenizer.load(out / "model")
    sides = []
    for documents in (corpus.train, corpus.held_out):
        ids: list[int] = []
        for encoded in vocabulary.encode_batch([document.text for document in documents]):
            ids += [tokenizer.END_OF_TEXT_ID, *encoded.ids]
        sides.append(numpy.array(ids, dtype=numpy.uint16))
    return sides[0], sides[1]


def _pretrain(options: Options, corpus: corpora.Corpus, console: rich.console.Console) -> None:
    train, held_out = token_ids(corpus, options.out)
    console.print(f"{len(train):,} training tokens, {len(held_out):,} held out")
    config = pretrain.PretrainConfig(max_minutes=options.max_minutes, compile=options.compile)
    run = pretrain.Run(config, options.out, train, held_out)
    with rich.progress.Progress(console=console) as bar:
        task = bar.add_task("pretraining", total=1.0)

        def report(progress: pretrain.Progress) -> None:
            rate, minutes = f"{progress.tokens_per_s:,.0f} tokens/s", progress.eta_s / 60
            text = f"step {progress.step} loss {progress.loss:.3f} {rate} ETA {minutes:.0f} min"
            bar.update(task, completed=progress.share, description=text)
            if progress.held_out_loss is not None:
                console.print(f"{text} · held out {progress.held_out_loss:.3f}")

        run.train(report)
    loss = run.held_out_loss()
    console.print(f"held-out loss {loss:.4f} nats/token after {run.tokens:,} tokens, {run.elapsed_s / 60:.1f} min")
    export.write_model(run.network, options.out / "model")
    _write_json(
        options.out / "training.json",
        {
            "held_out_loss": loss,
            "steps": run.step,
            "tokens_seen": run.tokens,
            "training_tokens": len(train),
            "held_out_tokens": len(held_out),
            "elapsed_s": run.elapsed_s,
            "corpus_digest": corpus.digest,
        },
    )


def _train_drafters(options: Options, corpus: corpora.Corpus, console: rich.console.Console) -> None:
    texts = drafters.write_texts(corpus, options.out / "text")
    with rich.progress.Progress(console=console) as bar:
        tasks: dict[str, rich.progress.TaskID] = {}

        def report(name: str, progress: drafter_training.TrainingProgress) -> None:
            text = (
                f"{name} step {progress.step} loss {progress.loss:.3f} agreement {progress.agreement:.3f} "
                f"{progress.tokens_per_s:,.0f} tokens/s ETA {progress.eta_s / 60:.0f} min"
            )
            if name not in tasks:
                tasks[name] = bar.add_task(text, total=1.0)
            bar.update(tasks[name], completed=progress.share, description=text)

        cards = drafters.train_all(options.out, texts, minutes=options.drafter_minutes, report=report)
    for name, card in cards.items():
        console.print(f"{name}: {card.figures}")


def _write_json(path: pathlib.Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
