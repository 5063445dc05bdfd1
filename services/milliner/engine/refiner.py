"""Refining prompts while the engine computes them: watches the last positions' attention, then chooses what to keep.

`whole_model` asks for it where a device asks for less than its whole prompt; other sequences pay nothing. Runs on the
executor's thread, all but `Refiner.begin`.
"""

from __future__ import annotations

from milliner.core import refinement
from milliner.model import kv_cache, prompt_watch

QUERIES = 16  # SnapKV's window is 32 (arXiv 2404.14469); docs/benchmarks.md has others


class Refiner:
    """Implements `engine.whole_model.Refiner` for a model with these layers."""

    def __init__(self, spec: kv_cache.KVSpec) -> None:
        self._layers = prompt_watch.choose_layers(spec)

    def begin(self, wanted: refinement.Refinement, *, num_tokens: int) -> Refining:
        """For one prompt of `num_tokens`."""
        watch = prompt_watch.PromptWatch(num_tokens=num_tokens, num_queries=QUERIES, layers=self._layers)
        return Refining(watch, wanted)


class Refining:
    """Implements `engine.whole_model.Refining`."""

    def __init__(self, watch: prompt_watch.PromptWatch, wanted: refinement.Refinement) -> None:
        self.watch = watch
        self._wanted = wanted

    def choose(self) -> refinement.Spans:
        """The spans to keep, once the whole prompt has been computed."""
        return refinement.select(scores(self.watch), self._wanted)


def scores(watch: prompt_watch.PromptWatch) -> list[float]:
    """What each position of a watched prompt matters."""
    found: list[float] = watch.scores().tolist()
    return found
