"""A model's answer to a prompt, and how well the same answer fits behind a shortened prompt.

Over the slices that serve and the watch that the engine refines with. One thread, no engine: called by `bench.refine`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from milliner.engine import refiner
from milliner.model import checkpoint, kv_cache, prompt_watch, ragged
from milliner.model import slice as slices

PAGE_TOKENS = 64  # arbitrary; caches live for one prompt


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """The greedy answer to a whole prompt, and what the refiner sees in that prompt."""

    token_ids: tuple[int, ...]
    scores: tuple[float, ...]
    log_likelihood: float  # nats per token


@dataclasses.dataclass(frozen=True, slots=True)
class Fit:
    """An answer behind a prompt: the share of its tokens that the prompt's own greedy choice would be, given those
    before them, and its mean log-likelihood in nats per token."""

    agreement: float
    log_likelihood: float


class Reader:
    """A whole model in float32 on the CPU. Raises as loading a checkpoint does."""

    def __init__(self, folder: Path) -> None:
        opened = checkpoint.Checkpoint.open(folder)
        spec = slices.SliceSpec(0, opened.num_layers, embedding=True, lm_head=True)
        self._model = slices.load_slice(opened, spec, dtype=torch.float32, torch_device=torch.device("cpu"))
        self._layers = prompt_watch.choose_layers(self._model.kv_spec)
        self.max_positions = self._model.max_positions

    @torch.inference_mode()
    def answer(self, prompt: Sequence[int], num_tokens: int) -> Answer:
        """`num_tokens` of the model's own choice; end of text does not end them."""
        watch = prompt_watch.PromptWatch(num_tokens=len(prompt), num_queries=refiner.QUERIES, layers=self._layers)
        sequence = self._cache(len(prompt) + num_tokens).open()
        token_ids, total, known = list[int](), 0.0, list(prompt)
        while len(token_ids) < num_tokens:
            deep = self._forward([known], [sequence], watch)[-1:]
            row = self._model.logits(deep)[0].log_softmax(dim=-1)  # [V]
            known = [int(row.argmax())]
            total += float(row[known[0]])
            token_ids += known
        return Answer(tuple(token_ids), tuple(watch.scores().tolist()), total / num_tokens)

    @torch.inference_mode()
    def fits(self, prompts: Sequence[Sequence[int]], answer: Sequence[int]) -> list[Fit]:
        """How the answer fits behind each of the prompts, computed as one batch."""
        texts = [[*prompt, *answer[:-1]] for prompt in prompts]
        cache = self._cache(sum(len(text) + PAGE_TOKENS for text in texts))
        deep = self._forward(texts, [cache.open() for _ in texts], None)  # [T, D] of all texts
        expected = torch.tensor(list(answer))
        found, end = [], 0
        for text in texts:
            end += len(text)
            logits = self._model.logits(deep[end - len(answer) : end])  # [A, V]: what each of its tokens is chosen by
            chosen = logits.log_softmax(dim=-1).gather(1, expected[:, None])
            agreement = (logits.argmax(dim=-1) == expected).float().mean()
            found.append(Fit(float(agreement), float(chosen.mean())))
        return found

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
