"""`milliner bench refine`: what a refined prompt is worth, against other ways to keep as much of it.

The model answers each held-out prompt, once greedily and once by sampling at temperature 1; then the same answers are
put behind shortened prompts, which are read as prompts of their own, as a device does. **Agreement** is the share of
the greedy answer's tokens that would be chosen there, given those before them. **Log-likelihood** is what a token that
would follow the whole prompt can expect there, along the sampled answer, in nats: never above that behind the whole
prompt, and below it by the divergence of the two. The greedy answer's own likelihood is shown too and says less: small
models' greedy answers run into loops, which are likelier the less stands before them.

Besides the refiner (`attention`): spans at random, spans at random between what the refiner keeps in any case, halves
from head and tail, the tail, the head; random ones are the mean of several draws. All is the same model's: what a
weaker device model makes of a refined prompt is another question. Summary figures are over all prompts: medians of the
refiner's figure less another's for the same prompt, and the share of prompts whose log-likelihood is higher.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import transformers

from milliner.bench import prompts, refined_answers, report, selections
from milliner.core import errors
from milliner.demo import assets

PROMPT_TOKENS = 512  # one of the two lengths of P/D-Device's bench
ANSWER_TOKENS = 64  # the benches'
DRAWS = 2  # of each random selection
CODE, PROSE, ALL = "code", "prose", "all"

COLUMNS = (
    report.Column("keep_percent", "kept %", key=True),
    report.Column("text", "text", key=True),
    report.Column("selection", "selection", key=True),
    report.Column("prompts", "prompts"),
    report.Column("agreement_median", "agreement", digits=3),
    report.Column("agreement_mean", "mean", digits=3),
    report.Column("log_likelihood_median", "log-likelihood", digits=3),
    report.Column("log_likelihood_mean", "mean", digits=3),
    report.Column("greedy_log_likelihood_median", "of the greedy answer", digits=3),
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to measure; `texts` empty: the demo's held-out ones."""

    model: Path | None = None
    texts: tuple[Path, ...] = ()
    keep_percents: tuple[int, ...] = (30, 50, 70)
    prompts: int = 24
    prompt_tokens: int = PROMPT_TOKENS


@dataclasses.dataclass(frozen=True, slots=True)
class _Measured:
    """One prompt behind which the answer was put."""

    text: str
    keep_percent: int
    fits: Mapping[selections.Selection, refined_answers.Fit]


def run(options: Options, *, command: str, advance: Callable[[str], None] = lambda _: None) -> report.Report:
    """Measures every prompt at every ratio; `advance` is called after each prompt.

    Raises `ConfigError` for options and texts that cannot be used, and as loading a checkpoint does.
    """
    _check(options)
    folder = options.model or assets.model_dir()
    reader = refined_answers.Reader(folder)
    cut = _prompts(folder, options)
    measured: list[_Measured] = []
    for number, (text, prompt) in enumerate(cut, start=1):
        measured += _measure(reader, prompt, text=text, number=number, options=options)
        advance(f"{number} of {len(cut)} prompts")
    return report.Report(
        command=command,
        rows=list(_rows(measured, options)),
        summary=_summary(measured, options),
        title=f"Refined prompts of {options.prompt_tokens} tokens, answers of {ANSWER_TOKENS}, held-out text",
        columns=COLUMNS,
    )


def _check(options: Options) -> None:
    wrong = [percent for percent in options.keep_percents if not 1 <= percent <= 99]
    if wrong or not options.keep_percents:
        raise errors.ConfigError(f"found {wrong or 'none'}: name percentages from 1 to 99", field="--keep")


def _prompts(folder: Path, options: Options) -> list[tuple[str, prompts.Prompt]]:
    """Half of the prompts from code and half from prose, where there are both."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    kinds: dict[str, list[str]] = {}
    for path in options.texts or assets.heldout_texts():
        try:
            kinds.setdefault(_kind(path), []).append(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise errors.ConfigError(f"{path} cannot be read as UTF-8 text: {error}", field="--text") from error

    def encode(text: str) -> Sequence[int]:
        found: Sequence[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return found

    length, count = options.prompt_tokens, -(-options.prompts // len(kinds))
    return [
        (kind, prompt)
        for kind, texts in sorted(kinds.items())
        for prompt in prompts.cut(texts, encode=encode, lengths=[length], count=count)[length]
    ]


def _kind(path: Path) -> str:
    """The demo's held-out files say by their names that they are Python; others by their suffix."""
    prose = path.suffix in {".txt", ".md", ".rst"} and not path.name.startswith("python-")
    return PROSE if prose else CODE


def _measure(
    reader: refined_answers.Reader, prompt: prompts.Prompt, *, text: str, number: int, options: Options
) -> Iterable[_Measured]:
    answers = reader.answer(prompt, ANSWER_TOKENS, seed=number)
    for percent in options.keep_percents:
        kept = selections.choose(answers.scores, keep_share=percent / 100, draws=DRAWS, seed=f"{number} {percent}")
        found = reader.fits([each.of(prompt) for each in kept], answers)
        fits = {
            selection: _mean([fit for each, fit in zip(kept, found, strict=True) if each.selection is selection])
            for selection in selections.Selection
        }
        yield _Measured(text, percent, fits)


def _mean(fits: Sequence[refined_answers.Fit]) -> refined_answers.Fit:
    return refined_answers.Fit(
        agreement=statistics.fmean(fit.agreement for fit in fits),
        greedy_log_likelihood=statistics.fmean(fit.greedy_log_likelihood for fit in fits),
        log_likelihood=statistics.fmean(fit.log_likelihood for fit in fits),
    )


def _rows(measured: Sequence[_Measured], options: Options) -> Iterable[report.Row]:
    texts = sorted({each.text for each in measured})
    for percent in options.keep_percents:
        for text in (ALL, *texts) if len(texts) > 1 else texts:
            of = [each.fits for each in measured if each.keep_percent == percent and text in (ALL, each.text)]
            for selection in selections.Selection:
                fits = [each[selection] for each in of]
                yield {
                    "keep_percent": percent,
                    "text": text,
                    "selection": selection.value,
                    "prompts": len(of),
                    "agreement_median": statistics.median(fit.agreement for fit in fits),
                    "agreement_mean": statistics.fmean(fit.agreement for fit in fits),
                    "log_likelihood_median": statistics.median(fit.log_likelihood for fit in fits),
                    "log_likelihood_mean": statistics.fmean(fit.log_likelihood for fit in fits),
                    "greedy_log_likelihood_median": statistics.median(fit.greedy_log_likelihood for fit in fits),
                }


def _summary(measured: Sequence[_Measured], options: Options) -> report.Summary:
    """Over all prompts, for each ratio."""
    summary: dict[str, dict[str, report.Scalar]] = {}
    own = selections.Selection.ATTENTION
    for percent in options.keep_percents:
        of = [each.fits for each in measured if each.keep_percent == percent]
        entry = summary[f"keep_{percent}"] = {}
        for other in (each for each in selections.Selection if each is not own):
            name = other.value.replace(" ", "_")
            gains = [fits[own].log_likelihood - fits[other].log_likelihood for fits in of]
            entry[f"agreement_over_{name}"] = statistics.median(
                fits[own].agreement - fits[other].agreement for fits in of
            )
            entry[f"log_likelihood_over_{name}"] = statistics.median(gains)
            entry[f"better_than_{name}"] = sum(gain > 0 for gain in gains) / len(gains)
    return summary
