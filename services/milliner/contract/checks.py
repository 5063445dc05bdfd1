"""A rule that is written once and holds twice: in Python for the local runner, as CEL in the API server.

The condition stands beside itself in both languages; the message is one template, of which both are made, so that the
words cannot differ. `rules` holds the rules of groups, `fields` and `sources` those of single values. Pure.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Callable, Iterable
from typing import Any

import pydantic
from pydantic import json_schema as json_schemas
from pydantic_core import core_schema

VALIDATIONS = "x-kubernetes-validations"
_PLACEHOLDER = re.compile(r"\{([A-Za-z.]+)\}")
_SELF = "self"


@dataclasses.dataclass(frozen=True, slots=True)
class Value:
    """A value that a message shows and that is not simply a field: computed from `self`, as text, in both languages."""

    name: str
    python: Callable[[Any], str]
    cel: str


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """A condition on a group (a model) or on a text.

    `holds` takes the parsed value; `cel` says the same of `self`, whose defaults the API server has filled in.
    `message` is a template: `{self}`, `{minTokens}` (a field below self, dotted) or the name of one of `values`.
    `field` is the path below self that the problem is reported at, as `.cloud.engine`.
    """

    holds: Callable[[Any], bool]
    cel: str
    message: str
    field: str = ""
    values: tuple[Value, ...] = ()

    def text(self, value: Any) -> str:
        """The message for a value that breaks the rule."""
        return _PLACEHOLDER.sub(lambda found: self._shown(found[1], value), self.message)

    def validation(self) -> dict[str, str]:
        """The rule as an entry of `x-kubernetes-validations`.

        `message` is there for people who read the CRD, and what the API server falls back to where a shown value has
        line breaks.
        """
        entry = {"rule": self.cel, "message": _PLACEHOLDER.sub(r"<\1>", self.message)}
        if _PLACEHOLDER.search(self.message):
            entry["messageExpression"] = self._message_expression()
        if self.field:
            entry["fieldPath"] = self.field
        return entry

    def _shown(self, name: str, value: Any) -> str:
        computed = self._value(name)
        if computed is not None:
            return computed.python(value)
        found = value if name == _SELF else _below(value, name)
        return str(found.value if isinstance(found, enum.Enum) else found)

    def _message_expression(self) -> str:
        """The template as CEL: `format`, because the cost of adding texts of unknown length has no bound."""
        pieces = _PLACEHOLDER.split(self.message)
        shown = ", ".join(map(self._cel_of, pieces[1::2]))
        return f"{cel_literal('%s'.join(piece.replace('%', '%%') for piece in pieces[::2]))}.format([{shown}])"

    def _cel_of(self, name: str) -> str:
        computed = self._value(name)
        if computed is not None:
            return computed.cel
        return _SELF if name == _SELF else f"self.{name}"

    def _value(self, name: str) -> Value | None:
        return next((value for value in self.values if value.name == name), None)


@dataclasses.dataclass(frozen=True, slots=True)
class Rules:
    """Pydantic metadata of a text type: `Annotated[str, Rules(...)]` checks them and writes them into the schema."""

    rules: tuple[Rule, ...]

    def check(self, value: str) -> str:
        """Returns the text; raises ValueError (*expected*) with the message of the first rule that it breaks."""
        for rule in self.rules:
            if not rule.holds(value):
                raise ValueError(rule.text(value))
        return value

    def __get_pydantic_core_schema__(
        self, source: Any, handler: pydantic.GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: pydantic.GetJsonSchemaHandler
    ) -> json_schemas.JsonSchemaValue:
        found = handler(schema)
        found[VALIDATIONS] = [rule.validation() for rule in self.rules]
        return found


def matching(pattern: str, message: str, *, unless: str = "") -> Rules:
    """A text as a whole matches a pattern, which Python and RE2 read alike: plain classes, no look-around.

    `unless` is a CEL condition under which it need not, for what is no text in the API server.
    """
    whole = re.compile(pattern, re.ASCII)
    return Rules(
        (
            Rule(
                holds=lambda text: whole.fullmatch(text) is not None,
                cel=f"{unless and unless + ' || '}self.matches({cel_literal(f'^({pattern})$')})",
                message=message,
            ),
        )
    )


def cel_literal(text: str) -> str:
    """The text as a CEL string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def cel_list(texts: Iterable[str]) -> str:
    """Several texts as a CEL list literal."""
    return "[" + ", ".join(map(cel_literal, texts)) + "]"


def _below(value: Any, path: str) -> Any:
    """The field at a dotted camelCase path below a model."""
    for part in path.split("."):
        fields = type(value).model_fields
        value = getattr(value, next(name for name, info in fields.items() if info.alias == part))
    return value
