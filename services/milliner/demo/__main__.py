"""`python -m milliner.demo --out DIR`: corpus, tokenizer, pretraining and export, end to end; run again to resume."""

from __future__ import annotations

import argparse
import json
import os
import pathlib
from collections.abc import Sequence

import numpy
import rich.console
import rich.progress
import torch

from milliner.demo import corpus as corpora
from milliner.demo import export, pretrain, tokenizer


def main(arguments: Sequence[str] | None = None) -> None:
    """Builds the demo target in `--out`; every stage that is already there is kept."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    console = rich.console.Console()
    out: pathlib.Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    corpus = corpora.collect(debian=not options.no_debian, extra=options.text)
    console.print(f"corpus {corpus.digest[:16]}: {json.dumps(corpus.summary())}")
    (out / "corpus.json").write_text(
        json.dumps(
            {
                "digest": corpus.digest,
                "sources": corpus.summary(),
                "held_out": {document.name: document.digest for document in corpus.held_out},
            },
            indent=2,
        )
        + "\n"
    )
    train, held_out = _tokens(corpus, out)
    console.print(f"{len(train):,} training tokens, {len(held_out):,} held out")
    config = pretrain.PretrainConfig(max_minutes=options.max_minutes, compile=not options.no_compile)
    run = pretrain.Run(config, out, train, held_out)
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
    console.print(
        f"held-out loss {loss:.4f} nats per token after {run.tokens:,} tokens in {run.elapsed_s / 60:.1f} min"
    )
    export.write_model(run.network, out / "model")
    export.write_held_out(corpus.held_out, out / "heldout")
    (out / "training.json").write_text(
        json.dumps(
            {
                "held_out_loss": loss,
                "steps": run.step,
                "tokens_seen": run.tokens,
                "training_tokens": len(train),
                "held_out_tokens": len(held_out),
                "elapsed_s": run.elapsed_s,
                "corpus_digest": corpus.digest,
            },
            indent=2,
        )
        + "\n"
    )


def _tokens(corpus: corpora.Corpus, out: pathlib.Path) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Trains the tokenizer if it is not there; encodes both sides, documents joined by end-of-text, in a fixed order."""
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m milliner.demo", description=main.__doc__)
    parser.add_argument(
        "--out", type=pathlib.Path, required=True, help="folder of checkpoints, logs and the finished model"
    )
    parser.add_argument("--max-minutes", type=float, default=55.0, help="wall-clock budget of pretraining")
    parser.add_argument(
        "--text", type=pathlib.Path, action="append", default=[], help="a further UTF-8 text file to train on"
    )
    parser.add_argument("--no-debian", action="store_true", help="leave the Debian packages' text out")
    parser.add_argument("--no-compile", action="store_true", help="run without torch.compile (no C++ compiler)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="torch threads")
    return parser


if __name__ == "__main__":
    main()
