"""A training's checkpoint: weights, optimizers and counters, resumed only by a run that agrees on what they are of."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import torch

from milliner.core import errors

FILE = "training.pt"


@dataclasses.dataclass(slots=True)
class Counters:
    """How far a run is: steps, tokens seen, wall-clock time in steps."""

    step: int = 0
    tokens: int = 0
    elapsed_s: float = 0.0


class DrafterCheckpoint:
    """The checkpoint in a folder. `identity`: by option of the command line, what a resumed run must agree on."""

    def __init__(self, folder: pathlib.Path, *, identity: Mapping[str, str]) -> None:
        self._path, self._identity = folder / FILE, dict(identity)

    @property
    def exists(self) -> bool:
        return self._path.is_file()

    def save(self, drafter: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer], counters: Counters) -> None:
        """Replaces the last one only once the new one is whole."""
        partial = self._path.with_suffix(".partial")
        torch.save(
            {
                "identity": self._identity,
                "drafter": drafter.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                **dataclasses.asdict(counters),
            },
            partial,
        )
        partial.replace(self._path)

    def load(
        self,
        drafter: torch.nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        *,
        torch_device: torch.device,
    ) -> Counters:
        """Fills weights and optimizers. Raises `ConfigError` on `--resume` when it is of another run."""
        state = torch.load(self._path, weights_only=True, map_location=torch_device)
        for option, value in self._identity.items():
            if state["identity"].get(option) != value:
                raise errors.ConfigError(
                    f"{self._path} is of a run with another {option}: leave --resume out or choose another --out",
                    field="--resume",
                )
        drafter.load_state_dict(state["drafter"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        return Counters(step=state["step"], tokens=state["tokens"], elapsed_s=state["elapsed_s"])

    def remove(self) -> None:
        """After the run's end."""
        self._path.unlink(missing_ok=True)
