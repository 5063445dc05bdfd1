"""The base of every model of the contract: camelCase outside, snake_case inside, unknown fields refused, frozen.

`parse` is the only way in for documents: JSON rules (no "3" for 3, no 1 for true), camelCase names only, and every
problem at once, each with its path.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

import pydantic
from pydantic import alias_generators

from milliner.contract import errors, explain


class Model(pydantic.BaseModel):
    """A part of a document. Python code constructs it with snake_case names; documents use camelCase."""

    model_config = pydantic.ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=alias_generators.to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        validate_default=True,
        use_attribute_docstrings=False,
    )

    def document(self) -> dict[str, Any]:
        """This model as a JSON-able mapping with camelCase names, without what was left unset."""
        document: dict[str, Any] = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return document

    def to_json(self) -> str:
        """`document` as indented JSON, the form of role configuration files."""
        return json.dumps(self.document(), indent=2) + "\n"


M = TypeVar("M", bound=pydantic.BaseModel)


def parse(model: type[M], document: object, *, origin: str = "") -> M:
    """Validates a mapping read from YAML or JSON; raises `SpecInvalid` (*expected*) with every problem found."""
    text = json.dumps(document, default=str)
    try:
        return model.model_validate_json(text, strict=True, by_alias=True, by_name=False)
    except pydantic.ValidationError as error:
        raise errors.SpecInvalid(explain.problems(error, model), origin=origin) from None
