"""A made-up language with a drafter of known quality: what follows a text is a hash of the text. Pure, no torch.

The target's next token is a function of all tokens before it. The drafter's distribution at that point has a
confidence c, drawn from Beta(2a, 2(1 - a)) with mean a, the *agreement*; its first choice is the target's with
probability c (a calibrated drafter). Where it is not, the target's token is the drafter's second, third or fourth
choice with the shares that docs/algorithms.md quotes (0.70, 0.15, 0.06 of the misses), else none of them.
"""

from __future__ import annotations

import dataclasses
import random

VOCABULARY = 4096
NUM_CANDIDATES = 8
RUNNER_UP_SHARES = (0.70, 0.15, 0.06)  # of misses: 0.70 / 0.85 / 0.91 cumulated (docs/algorithms.md, adapter `Layer`)


@dataclasses.dataclass(frozen=True, slots=True)
class Opinion:
    """What target and drafter say after a text; `candidates` are the drafter's, best first."""

    target: int
    candidates: tuple[tuple[int, float], ...]

    @property
    def confidence(self) -> float:
        return self.candidates[0][1]


class Language:
    """Opinions by text. A text is known by its hash: `extend` makes the hash of a longer one."""

    def __init__(self, *, agreement: float, seed: int = 0) -> None:
        if not 0.0 < agreement < 1.0:
            raise ValueError(f"agreement {agreement} is outside (0, 1)")
        self._agreement = agreement
        self._seed = seed

    def extend(self, text: int, token: int) -> int:
        return hash((self._seed, text, token))

    def opinion(self, text: int) -> Opinion:
        generator = random.Random(text)
        confidence = generator.betavariate(2 * self._agreement, 2 * (1 - self._agreement))
        tokens = generator.sample(range(VOCABULARY), NUM_CANDIDATES + 1)
        candidates, other = tokens[:-1], tokens[-1]
        rank = self._rank(generator, confidence)
        shares = [0.5 ** (i + 1) for i in range(NUM_CANDIDATES - 1)]
        spread = [min(confidence, (1 - confidence) * share) for share in shares]
        return Opinion(
            target=candidates[rank] if rank is not None else other,
            candidates=tuple(zip(candidates, [confidence, *spread], strict=True)),
        )

    @staticmethod
    def _rank(generator: random.Random, confidence: float) -> int | None:
        """The place of the target's token among the candidates, None where it is not among them."""
        if generator.random() < confidence:
            return 0
        place = generator.random()
        for rank, share in enumerate(RUNNER_UP_SHARES, start=1):
            place -= share
            if place < 0:
                return rank
        return None
