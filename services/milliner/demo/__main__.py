"""`python -m milliner.demo --out DIR`: builds the demo model and its drafters; run again to go on where it stopped."""

from __future__ import annotations

import argparse
import os
import pathlib
from collections.abc import Sequence

import rich.console
import torch

from milliner.demo import build


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line and builds."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    build.build(
        build.Options(
            out=options.out,
            max_minutes=options.max_minutes,
            finish_minutes=options.finish_minutes,
            drafter_minutes=options.drafter_minutes,
            texts=tuple(options.text),
            debian=not options.no_debian,
            compile=not options.no_compile,
        ),
        rich.console.Console(),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m milliner.demo", description=__doc__)
    add = parser.add_argument
    add("--out", type=pathlib.Path, required=True, help="folder of checkpoints, logs and the finished model")
    add("--max-minutes", type=float, default=55.0, help="wall-clock budget of pretraining")
    add("--finish-minutes", type=float, default=15.0, help="wall-clock budget of the finish with a draft layer")
    add("--drafter-minutes", type=float, default=10.0, help="wall-clock budget of all drafters together")
    add("--text", type=pathlib.Path, action="append", default=[], help="a further UTF-8 text file to train on")
    add("--no-debian", action="store_true", help="leave the Debian packages' text out")
    add("--no-compile", action="store_true", help="run without torch.compile (no C++ compiler)")
    add("--threads", type=int, default=os.cpu_count() or 1, help="torch threads")
    return parser


if __name__ == "__main__":
    main()
