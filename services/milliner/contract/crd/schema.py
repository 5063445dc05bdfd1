"""Pydantic models as structural OpenAPI v3 schemas, which is what the API server takes. Pure.

What is changed on the way: references are written out; `X or null` becomes an optional X (the API server drops nulls);
titles go; a default stays only where it is a fixed value, and a group that holds such defaults has them all for one (in
full, because the API server holds a group's default against the group's rules as it stands); every description ends
with default and range, which `kubectl explain` does not show by itself; lists say how they merge; rules become CEL.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pydantic
from pydantic import json_schema as json_schemas
from pydantic_core import core_schema

from milliner.contract import checks, fields, rules

Schema = dict[str, Any]

LIST_KEYS = {"devicePools": "name", "conditions": "type"}  # lists of groups that one field identifies
_KEPT = (
    *("type", "format", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength"),
    *("minItems", "maxItems", "maxProperties", "required"),
    *("x-kubernetes-int-or-string", checks.VALIDATIONS),
)


def structural(model: type[pydantic.BaseModel], *, wanted: bool = True) -> Schema:
    """The structural schema of a model; `wanted`: users write it, so defaults are filled in, and told with ranges."""
    whole = model.model_json_schema(by_alias=True, schema_generator=_WithRules)
    return _Writer(whole, wanted=wanted).schema(whole)


class _WithRules(json_schemas.GenerateJsonSchema):
    """Pydantic's generator, with the rules of each group beside its fields."""

    def model_schema(self, schema: core_schema.ModelSchema) -> json_schemas.JsonSchemaValue:
        found = super().model_schema(schema)
        validations = [rule.validation() for rule in rules.of(schema["cls"])]
        return {**found, checks.VALIDATIONS: validations} if validations else found


class _Writer:
    """Rewrites one JSON schema; holds its definitions, and in how many places each group stands."""

    def __init__(self, whole: Schema, *, wanted: bool) -> None:
        self._definitions = whole.get("$defs", {})
        self._wanted = wanted
        self._uses = Counter(self._bare({"$ref": each}).get("description", "") for each in _references(whole))

    def schema(self, node: Schema, *, name: str = "") -> Schema:
        """The structural form of a node; `name` is the field that holds it."""
        bare = self._bare(node)
        kept = {key: bare[key] for key in _KEPT if key in bare}
        if kept.get("x-kubernetes-int-or-string"):
            del kept["type"]  # structural schemas say it by the extension alone
        if "const" in bare:
            kept["enum"] = [bare["const"]]
        if kept.get("type") == "array":
            kept |= self._list(bare, name)
        if kept.get("type") == "object":
            kept |= self._object(bare)
        default = self._default(node, bare, kept)
        if default is not None:
            kept["default"] = default
        description = self._description(node, bare, default)
        return {"description": description, **kept} if description else kept

    def _description(self, node: Schema, bare: Schema, default: Any) -> str:
        """The field's words, its group's, default and range. A group that stands in one place speaks for the field."""
        field, group = node.get("description", ""), bare.get("description", "") if "properties" in bare else ""
        alone = group and self._uses[group] == 1 and "Default:" not in field
        said = [group] if alone else [field, group]
        told = _told(default, bare) if self._wanted else ()
        parts = [" ".join(text.split()) for text in said if text]
        parts += [sentence for sentence in told if not ("Default:" in field and sentence.startswith("Default:"))]
        return " ".join(dict.fromkeys(parts))

    def _bare(self, node: Schema) -> Schema:
        """The node without references and without the choice of null; the field's own words are left in `node`."""
        options = [option for option in node.get("anyOf", ()) if option.get("type") != "null"]
        if len(options) == 1:
            return self._bare(options[0])
        if "$ref" in node:
            return self._bare(self._definitions[node["$ref"].rpartition("/")[2]])
        return node

    def _list(self, bare: Schema, name: str) -> Schema:
        items = {"items": self.schema(bare["items"])}
        key = LIST_KEYS.get(name)
        if key is None:
            return {**items, "x-kubernetes-list-type": "atomic"}
        return {**items, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}

    def _object(self, bare: Schema) -> Schema:
        if "properties" in bare:
            return {"properties": {name: self.schema(child, name=name) for name, child in bare["properties"].items()}}
        values = bare.get("additionalProperties")
        if isinstance(values, dict):
            return {"additionalProperties": self.schema(values)}
        return {"x-kubernetes-preserve-unknown-fields": True}

    def _default(self, node: Schema, bare: Schema, kept: Schema) -> Any:
        """What the API server fills in: fixed values, and groups in which there are such."""
        default = node.get("default")
        if default is None or node.get(fields.UNSET_MATTERS) or not self._wanted:
            return None
        if "properties" in bare:
            children = kept["properties"].items()
            return {name: child["default"] for name, child in children if "default" in child} or None
        return default if default not in ("", [], {}) else None


def _told(default: Any, bare: Schema) -> Iterator[str]:
    """Default and range, as sentences; none of a group."""
    if default is not None and not isinstance(default, dict):
        yield f"Default: {default}."
    if "minimum" in bare and "maximum" in bare:
        yield f"From {bare['minimum']} to {bare['maximum']}."


def _references(node: Any) -> Iterator[str]:
    """Every reference in a JSON schema."""
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for child in node.values():
            yield from _references(child)
    if isinstance(node, list):
        for child in node:
            yield from _references(child)
