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
import rich.console
import rich.progress

from milliner.demo import corpus as corpora
from milliner.demo import cotrain, drafters, export, finish, pretrain, tokenizer, training_loop
from milliner.model import digest, drafter_file, drafter_training


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """What to build, where, and for how long."""

    out: pathlib.Path
    max_minutes: float
    finish_minutes: float
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
        train, held_out = token_ids(corpus, out)
        console.print(f"{len(train):,} training tokens, {len(held_out):,} held out")
        run = _pretrain(options, train, held_out, console)
        _finish(options, run, train, console)
    export.write_held_out(corpus.held_out, out / "heldout")
    _train_drafters(options, corpus, console)


def token_ids(corpus: corpora.Corpus, out: pathlib.Path) -> tuple[training_loop.Ids, training_loop.Ids]:
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


def _pretrain(
    options: Options, train: training_loop.Ids, held_out: training_loop.Ids, console: rich.console.Console
) -> pretrain.PretrainRun:
    config = pretrain.PretrainConfig(
        schedule=pretrain.schedule(max_minutes=options.max_minutes), compile=options.compile
    )
    run = pretrain.PretrainRun(config, options.out, train, held_out)
    with rich.progress.Progress(console=console) as bar:
        task = bar.add_task("pretraining", total=1.0)

        def report(progress: training_loop.Progress) -> None:
            rate, minutes = f"{progress.tokens_per_s:,.0f} tokens/s", progress.eta_s / 60
            text = f"step {progress.step} loss {progress.figures['loss']:.3f} {rate} ETA {minutes:.0f} min"
            bar.update(task, completed=progress.share, description=text)
            if progress.held_out_loss is not None:
                console.print(f"{text} · held out {progress.held_out_loss:.3f}")

        run.loop.train(report)
    return run


def _finish(
    options: Options, pretrained: pretrain.PretrainRun, train: training_loop.Ids, console: rich.console.Console
) -> None:
    """The finish beside a draft layer; then writes the model, the draft layer and `training.json`."""
    before = pretrained.task.held_out_loss(None)
    console.print(f"held-out loss {before:.4f} nats/token after {pretrained.loop.tokens:,} tokens")
    config = finish.FinishConfig(
        split_layer=drafters.SPLIT_LAYER,
        schedule=finish.schedule(max_minutes=options.finish_minutes),
        compile=options.compile,
    )
    run = finish.FinishRun(config, options.out, pretrained.network, train)
    with rich.progress.Progress(console=console) as bar:
        task = bar.add_task("finish", total=1.0)

        def report(progress: training_loop.Progress) -> None:
            figures = " ".join(f"{name} {value:.3f}" for name, value in progress.figures.items())
            text = f"step {progress.step} {figures} ETA {progress.eta_s / 60:.0f} min"
            bar.update(task, completed=progress.share, description=text)

        run.loop.train(report)
    loss = pretrained.task.held_out_loss(None)
    console.print(f"held-out loss {loss:.4f} nats/token after {run.loop.tokens:,} tokens more")
    model = options.out / "model"
    export.write_model(pretrained.network, model)
    adapter = cotrain.as_adapter(run.network)
    card = drafter_file.Card(
        kind=drafter_file.DrafterKind.ADAPTER,
        form=adapter.config.form.value,
        model_digest=digest.model_digest(model),
        split_layer=config.split_layer,
        dtype="float32",
        sizes=drafter_file.sizes_of(adapter),
    )
    drafter_file.save(options.out / drafters.DRAFT_FOLDER, adapter, card)
    _write_json(
        options.out / "training.json",
        {
            "held_out_loss_before_finish": before,
            "held_out_loss": loss,
            "pretraining": _spent(pretrained.loop),
            "finish": _spent(run.loop),
        },
    )


def _spent(loop: training_loop.Loop) -> dict[str, float]:
    return {"steps": loop.step, "tokens": loop.tokens, "elapsed_s": loop.elapsed_s}


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
