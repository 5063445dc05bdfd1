"""A model's answers to a prompt, and how well the same answers fit behind a shortened prompt.

Over the slices that serve and the watch that the engine refines with. One thread, no engine: called by `bench.refine`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from milliner.core import types
from milliner.engine import refiner
from milliner.model import checkpoint, kv_cache, prompt_watch, ragged, sampling
from milliner.model import slice as slices

PAGE_TOKENS = 64  # arbitrary; caches live for one prompt


@dataclasses.dataclass(frozen=True, slots=True)
class Answers:
    """Two answers to a whole prompt, A tokens each, and what the refiner sees in that prompt.

    `greedy` and `sampled` (temperature 1) are token ids, `expected` [A, V] the model's probabilities along the sampled
    one.
    """

    greedy: tuple[int, ...]
    sampled: tuple[int, ...]
    expected: torch.Tensor
    scores: tuple[float, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Fit:
    """A whole prompt's answers behind another prompt.

    `agreement`: the share of the greedy answer's tokens that would be chosen, given those before them;
    `greedy_log_likelihood`: that answer's, in nats per token. `log_likelihood`: what a token that the whole prompt
    would be followed by can expect, nats, mean along the sampled answer; highest behind the whole prompt itself.
    """

    agreement: float
    greedy_log_likelihood: float
    log_likelihood: float


class Reader:
    """A whole model in float32 on the CPU. Raises as loading a checkpoint does."""

    def __init__(self, folder: Path) -> None:
        opened = checkpoint.Checkpoint.open(folder)
        spec = slices.SliceSpec(0, opened.num_layers, embedding=True, lm_head=True)
        self._model = slices.load_slice(opened, spec, dtype=torch.float32, torch_device=torch.device("cpu"))
        self._layers = prompt_watch.choose_layers(self._model.kv_spec)

    @torch.inference_mode()
    def answer(self, prompt: Sequence[int], num_tokens: int, *, seed: int) -> Answers:
        """`num_tokens` of each kind; end of text does not end them."""
        watch = prompt_watch.PromptWatch(num_tokens=len(prompt), num_queries=refiner.QUERIES, layers=self._layers)
        sequence = self._cache(len(prompt) + num_tokens).open()
        first = self._model.logits(self._forward([prompt], [sequence], watch)[-1:])  # [1, V]
        greedy, _ = self._continue(sequence, first, num_tokens, sampling.Picker(types.SamplingParams(), seed=seed))
        sequence.truncate(len(prompt))
        picker = sampling.Picker(types.SamplingParams(temperature=1.0), seed=seed)
        sampled, logits = self._continue(sequence, first, num_tokens, picker)
        return Answers(greedy, sampled, logits.softmax(dim=-1), tuple(refiner.scores(watch)))

    @torch.inference_mode()
    def fits(self, prompts: Sequence[Sequence[int]], answers: Answers) -> list[Fit]:
        """How the answers fit behind each of the prompts, computed as one batch."""
        sizes = [len(prompt) + len(answers.greedy) + PAGE_TOKENS for prompt in prompts]
        cache = self._cache(sum(sizes))
        sequences = [cache.open() for _ in prompts]
        deep = self._forward([[*prompt, *answers.greedy[:-1]] for prompt in prompts], sequences, None)
        rows = deep.split([len(prompt) + len(answers.greedy) - 1 for prompt in prompts])
        for prompt, sequence in zip(prompts, sequences, strict=True):
            sequence.truncate(len(prompt))
        others = self._forward([answers.sampled[:-1]] * len(prompts), sequences, None).chunk(len(prompts))
        found = []
        for prompt, own, other in zip(prompts, rows, others, strict=True):
            greedy = self._model.logits(own[len(prompt) - 1 :])  # [A, V]
            sampled = self._model.logits(torch.cat([own[len(prompt) - 1 : len(prompt)], other]))  # [A, V]
            found.append(_fit(greedy, sampled, answers))
        return found

    def _continue(
        self, sequence: kv_cache.SequenceKV, logits: torch.Tensor, num_tokens: int, picker: sampling.Picker
    ) -> tuple[tuple[int, ...], torch.Tensor]:
        """Tokens behind a sequence whose last position has `logits`, and the logits [A, V] that they are chosen by."""
        token_ids, rows = list[int](), [logits]
        while True:
            position = sequence.kv_len
            token_ids.append(sampling.accept(picker.scores(rows[-1], [position]), []).token_id)
            picker.forget(position + 1)
            if len(token_ids) == num_tokens:
                return tuple(token_ids), torch.cat(rows)
            rows.append(self._model.logits(self._forward([token_ids[-1:]], [sequence], None)))

    def _forward(
        self,
        texts: Sequence[Sequence[int]],
        sequences: Sequence[kv_cache.SequenceKV],
        watch: prompt_watch.PromptWatch | None,
    ) -> torch.Tensor:
        """[T, D] of texts that go on their sequences."""
        segments = []
        for text, sequence in zip(texts, sequences, strict=True):
            sequence.reserve(len(text))
            segments.append(ragged.Segment(sequence, sequence.kv_len, len(text), watch=watch))
        ids = torch.tensor([token for text in texts for token in text])
        batch = ragged.RaggedBatch.build(segments, torch_device=self._model.torch_device)
        return self._model.forward(self._model.embed(ids), batch)

    def _cache(self, num_tokens: int) -> kv_cache.PagedKVCache:
        return kv_cache.PagedKVCache(
            self._model.kv_spec,
            num_pages=-(-num_tokens // PAGE_TOKENS),
            page_tokens=PAGE_TOKENS,
            dtype=self._model.dtype,
            torch_device=self._model.torch_device,
        )


def _fit(greedy: torch.Tensor, sampled: torch.Tensor, answers: Answers) -> Fit:
    """From the logits [A, V] along the two answers."""
    tokens = torch.tensor(answers.greedy)
    return Fit(
        agreement=float((greedy.argmax(dim=-1) == tokens).float().mean()),
        greedy_log_likelihood=float(greedy.log_softmax(dim=-1).gather(1, tokens[:, None]).mean()),
        log_likelihood=float((answers.expected * sampled.log_softmax(dim=-1)).sum(dim=-1).mean()),
    )
