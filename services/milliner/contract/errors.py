"""What is wrong with a document: problems collected with the field's path, printed one per line.

Not part of `core.errors`: contract lies below core, and the operator uses these without the runtime.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong: the field's path (`spec.strategy.hat.splitLayer`), what is wrong and what to write instead."""

    path: str
    message: str
    line: int | None = None  # 1-based line of the document where it was found

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line is not None else ""
        return f"{where}{self.path}: {self.message}" if self.path else f"{where}{self.message}"


class ContractError(Exception):
    """A document that a person or program wrote is wrong (*expected*: command-line exit code 2)."""


class DocumentError(ContractError):
    """A file cannot be read as YAML or JSON, or holds another kind of object."""


class SpecInvalid(ContractError):
    """A document breaks the schema or one of its rules; `problems` holds all of them."""

    def __init__(self, problems: Sequence[Problem], *, origin: str = "") -> None:
        self.problems = tuple(problems)
        self.origin = origin
        head = f"{origin}: " if origin else ""
        super().__init__("\n".join(f"{head}{problem}" for problem in self.problems))
