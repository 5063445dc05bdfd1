"""`milliner bench refine`: what a refined prompt is worth, against other ways to keep as much of it.

The model answers each prompt, once greedily and once by sampling at temperature 1; then the same answers are put behind
shortened prompts, which are read as prompts of their own, as a device does. **Agreement** is the share of the greedy
answer's tokens that would be chosen there, given those before them. **Log-likelihood** is what a token that would
follow the whole prompt can expect there, along the sampled answer, in nats: never above that behind the whole prompt,
and below it by the divergence of the two. The greedy answer's own likelihood is shown too and says less: small models'
greedy answers run into loops, which are likelier the less stands before them.

Prompts are windows of held-out text: as they are, and made into prompts whose answer stands somewhere in them
(`far_prompts` says how; the draws' seed is the prompt's number). Besides the refiner (`attention`): spans at random,
spans at random between what the refiner keeps in any case, halves from head and tail, the tail, the head; random ones
are the mean of several draws. All is the same model's: what a weaker device model makes of a refined prompt is another
question. What the report holds: `refine_report`.
"""

from __future__ import annotations

import dataclasses
import random
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import transformers

from milliner.bench import far_prompts, prompts, refine_report, refined_answers, report, selections
from milliner.core import errors
from milliner.demo import assets

PROMPT_TOKENS = 512  # one of the two lengths of P/D-Device's bench
DRAWS = 2  # of each random selection


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to measure; `texts` empty: the demo's held-out ones. `prompts`: of each kind."""

    model: Path | None = None
    texts: tuple[Path, ...] = ()
    keep_percents: tuple[int, ...] = (30, 50, 70)
    prompts: int = 48
    prompt_tokens: int = PROMPT_TOKENS


@dataclasses.dataclass(frozen=True, slots=True)
class _Task:
    """One prompt; `number` seeds what is drawn for it."""

    kind: far_prompts.Kind
    text: str
    number: int
    prompt: prompts.Prompt


def run(options: Options, *, command: str, advance: Callable[[str], None] = lambda _: None) -> report.Report:
    """Measures every prompt at every ratio; `advance` is called after each prompt.

    Raises `ConfigError` for options and texts that cannot be used, and as loading a checkpoint does.
    """
    _check(options)
    folder = options.model or assets.recall_dir()
    reader = refined_answers.Reader(folder)
    tasks = list(_tasks(folder, options))
    measured: list[refine_report.Measured] = []
    for done, task in enumerate(tasks, start=1):
        measured += _measure(reader, task, options)
        advance(f"{done} of {len(tasks)} prompts")
    title = f"Refined prompts of {options.prompt_tokens} tokens, held-out text"
    return refine_report.build(measured, command=command, title=title)


def _check(options: Options) -> None:
    wrong = [percent for percent in options.keep_percents if not 1 <= percent <= 99]
    if wrong or not options.keep_percents:
        raise errors.ConfigError(f"found {wrong or 'none'}: name percentages from 1 to 99", field="--keep")


def _tasks(folder: Path, options: Options) -> Iterable[_Task]:
    """Half of the prompts from code and half from prose, where there are both; the same windows in every kind."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    sources: dict[str, list[str]] = {}
    for path in options.texts or assets.heldout_texts():
        try:
            sources.setdefault(_text_kind(path), []).append(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise errors.ConfigError(f"{path} cannot be read as UTF-8 text: {error}", field="--text") from error

    def encode(text: str) -> Sequence[int]:
        found: Sequence[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return found

    length, count = options.prompt_tokens, -(-options.prompts // len(sources))
    windows = [
        (text, window)
        for text, documents in sorted(sources.items())
        for window in prompts.cut(documents, encode=encode, lengths=[length], count=count, option="--prompts")[length]
    ]
    for kind in far_prompts.Kind:
        for number, (text, window) in enumerate(windows, start=1):
            made = far_prompts.make(kind, window, encode=encode, draw=random.Random(f"{kind} {number}"))
            yield _Task(kind, text, number, made)


def _text_kind(path: Path) -> str:
    """The demo's held-out files say by their names that they are Python; others by their suffix."""
    prose = path.suffix in {".txt", ".md", ".rst"} and not path.name.startswith("python-")
    return refine_report.PROSE if prose else refine_report.CODE


def _measure(reader: refined_answers.Reader, task: _Task, options: Options) -> Iterable[refine_report.Measured]:
    number, prompt = task.number, task.prompt
    answers = reader.answer(prompt, far_prompts.ANSWER_TOKENS[task.kind], seed=number)
    for percent in options.keep_percents:
        kept = selections.choose(answers.scores, keep_share=percent / 100, draws=DRAWS, seed=f"{number} {percent}")
        found = reader.fits([each.of(prompt) for each in kept], answers)
        fits = {
            selection: _mean([fit for each, fit in zip(kept, found, strict=True) if each.selection is selection])
            for selection in selections.Selection
        }
        yield refine_report.Measured(task.kind, task.text, percent, fits)


def _mean(fits: Sequence[refined_answers.Fit]) -> refined_answers.Fit:
    return refined_answers.Fit(
        agreement=statistics.fmean(fit.agreement for fit in fits),
        greedy_log_likelihood=statistics.fmean(fit.greedy_log_likelihood for fit in fits),
        log_likelihood=statistics.fmean(fit.log_likelihood for fit in fits),
    )
