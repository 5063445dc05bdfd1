"""`milliner bench acceptance`: how many tokens a round of drafting yields. At most 8 drafts, no early exit.

The acceptance length is accepted drafts + 1 (the token that the target itself adds), the mean over rounds. Every round
is a real roll-out: the drafter drafts on its *own* tokens, the target then reads root and drafts and accepts the
longest prefix that it would have written itself. Nothing here was trained on. Three kinds of rounds:

- **text** (`acceptance_length_text`): rounds anchored along held-out documents. Root and everything before it are the
  document; drafts are the likeliest tokens, accepted while each is the target's likeliest after the ones before. After
  a round of a accepted drafts the next round is anchored a + 1 tokens further in the *document*, whatever the target
  wrote, so that the target's own habits (loops) cannot flatter the drafter.
- **sampled** (`acceptance_length_sampled`): answers drawn at temperature 0.8 from held-out prompts by speculative
  sampling (a draft stands if target and drafter pick it with the same noise: `model.sampling`).
- **greedy** (`acceptance_length_greedy`): the target's greedy answers to the same prompts. A small model's greedy
  answers run into loops that are easy to draft: quoted for comparison only.

Rows also hold `replayed`: the same as text with the document's tokens in place of the drafter's own after the first
draft, over every position (the adapter file's figure); a stricter look, since it also goes on where a draft and the
target agree on something other than the document.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
import transformers

from milliner.bench import draft_rounds, report
from milliner.core import errors, types
from milliner.demo import assets
from milliner.model import adapter as adapters
from milliner.model import digest, drafter_file, drafter_target, sampling

NUM_DRAFTS = 8  # as the demo's targets ask (docs/algorithms.md)
TEMPERATURE = 0.8  # likewise
PROMPT_TOKENS = 256  # arbitrary: the bench's prompts are 128 to 2,048
ANSWER_TOKENS = 64  # the bench's

COLUMNS = (
    report.Column("form", "adapter"),
    report.Column("mode", "rounds of"),
    report.Column("rounds", "rounds"),
    report.Column("acceptance_length", "acceptance length", digits=2),
    report.Column("standard_error", "±", digits=2),
    report.Column("first_draft_accepted", "first draft accepted", digits=3),
    report.Column("replayed", "replayed", digits=2),
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to measure. `adapters` empty: every form that ships, the default first; the summary is the first one's."""

    model: Path | None = None
    adapters: tuple[Path, ...] = ()
    texts: tuple[Path, ...] = ()
    documents: int = 24
    prompt_tokens: int = PROMPT_TOKENS
    text_tokens: int = 160
    seed: int = 1


@dataclasses.dataclass(slots=True)
class _Count:
    """Accepted drafts of each round."""

    accepted: list[int] = dataclasses.field(default_factory=list)

    @property
    def length(self) -> float:
        return 1.0 + sum(self.accepted) / len(self.accepted)

    @property
    def standard_error(self) -> float:
        values = torch.tensor(self.accepted, dtype=torch.float64)
        return float(values.std(unbiased=False) / len(values) ** 0.5)

    @property
    def first(self) -> float:
        return sum(a > 0 for a in self.accepted) / len(self.accepted)


def run(options: Options, *, command: str, advance: Callable[[str], None] = lambda _: None) -> report.Report:
    """Measures every adapter in all three modes; `advance` is called after each document.

    Raises `ConfigError` for texts or folders that cannot be used, `DrafterMismatch` for an adapter of another model.
    """
    model = options.model or assets.model_dir()
    folders = options.adapters or tuple(assets.adapter_dir(form) for form in assets.FORMS)
    documents = list(_documents(model, options.texts or assets.heldout_texts(), options))
    model_digest = digest.model_digest(model)
    rows: list[report.Row] = []
    for folder in folders:
        card = drafter_file.read_card(folder)
        target = drafter_target.FrozenTarget(
            model, split_layer=card.split_layer, dtype=torch.float32, torch_device=torch.device("cpu")
        )
        drafter = drafter_file.load_adapter(folder, model_digest=model_digest)
        replayed = card.figures.acceptance_length if card.figures else None
        for mode, measure in (("text", _text), ("sampled", _sampled), ("greedy", _greedy)):
            count = _Count()
            for index, ids in enumerate(documents):
                count.accepted += measure(target, drafter, ids, options, options.seed * 1000 + index)
                advance(f"{card.form} {mode}")
            rows.append(
                {
                    "form": card.form,
                    "mode": mode,
                    "rounds": len(count.accepted),
                    "acceptance_length": count.length,
                    "standard_error": count.standard_error,
                    "first_draft_accepted": count.first,
                    "replayed": replayed if mode == "text" else None,
                }
            )
    summary = {f"acceptance_length_{row['mode']}": row["acceptance_length"] for row in rows[:3]}
    return report.Report(
        command=command,
        rows=rows,
        summary={"form": rows[0]["form"], **summary},
        title="Acceptance: accepted drafts + 1, at most 8 drafts, no early exit, held-out text",
        columns=COLUMNS,
    )


def _documents(model: Path, texts: Sequence[Path], options: Options) -> Iterator[list[int]]:
    """The first documents' ids that hold a prompt and the text rounds after it."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model, local_files_only=True)
    found, needed = 0, options.prompt_tokens + options.text_tokens
    for path in texts:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise errors.ConfigError(f"{path} cannot be read as UTF-8 text: {error}", field="--text") from error
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if len(ids) >= needed and found < options.documents:
            found += 1
            yield ids
    if not found:
        raise errors.ConfigError(f"no document holds {needed} tokens: name longer held-out files", field="--text")


def _text(
    target: drafter_target.FrozenTarget, drafter: adapters.Adapter, ids: list[int], options: Options, seed: int
) -> list[int]:
    """Rounds along the document behind the same prompt that the answers get."""
    start = _place(ids, options, seed)
    ids = ids[start : start + options.prompt_tokens + options.text_tokens]
    rounds = draft_rounds.DraftRounds(target, drafter, max_tokens=len(ids) + NUM_DRAFTS + 2)
    rounds.prefill(ids[: options.prompt_tokens])
    picker = sampling.Picker(types.SamplingParams(), seed=seed)
    accepted = []
    while rounds.position < len(ids):
        at = rounds.position
        made = rounds.round(ids[at], num_drafts=NUM_DRAFTS, picker=picker)
        accepted.append(made.num_accepted)
        rounds.return_to(at)
        rounds.append(ids[at : at + made.num_accepted + 1])
    return accepted


def _sampled(
    target: drafter_target.FrozenTarget, drafter: adapters.Adapter, ids: list[int], options: Options, seed: int
) -> list[int]:
    return _answer(target, drafter, _prompt(ids, options, seed), types.SamplingParams(temperature=TEMPERATURE), seed)


def _greedy(
    target: drafter_target.FrozenTarget, drafter: adapters.Adapter, ids: list[int], options: Options, seed: int
) -> list[int]:
    return _answer(target, drafter, _prompt(ids, options, seed), types.SamplingParams(), seed)


def _place(ids: list[int], options: Options, seed: int) -> int:
    """Where in a document the prompt begins: elsewhere in each, with room for the text behind it."""
    return seed * 389 % (len(ids) - options.prompt_tokens - options.text_tokens + 1)


def _prompt(ids: list[int], options: Options, seed: int) -> list[int]:
    start = _place(ids, options, seed)
    return ids[start : start + options.prompt_tokens]


def _answer(
    target: drafter_target.FrozenTarget,
    drafter: adapters.Adapter,
    prompt: list[int],
    params: types.SamplingParams,
    seed: int,
) -> list[int]:
    """Rounds of one answer of `ANSWER_TOKENS` tokens; end of text does not end it."""
    rounds = draft_rounds.DraftRounds(target, drafter, max_tokens=len(prompt) + ANSWER_TOKENS + 2 * NUM_DRAFTS)
    picker = sampling.Picker(params, seed=seed)
    root = int(picker.scores(rounds.prefill(prompt)[None], [len(prompt)]).argmax())
    accepted, emitted = [], 1
    while emitted < ANSWER_TOKENS:
        made = rounds.round(root, num_drafts=NUM_DRAFTS, picker=picker)
        accepted.append(made.num_accepted)
        emitted += len(made.emitted)
        root = made.next_token
    return accepted
