"""Pydantic models as structural OpenAPI v3 schemas, which is what the API server takes. Pure.

What is changed on the way: references are written out; `X or null` becomes an optional X (the API server drops nulls);
titles go; a default stays only where it is a fixed value, and a group that holds such defaults has them all for one (in
full, because the API server holds a group's default against the group's rules as it stands); every description ends
with default and range, which `kubectl explain` does not show by itself; lists say how they merge; rules become CEL.
"""

from __future__ import annotations

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


def structural(model: type[pydantic.BaseModel], *, with_defaults: bool = True) -> Schema:
    """The structural schema of a model; `with_defaults`: the API server fills in what a document leaves out."""
    whole = model.model_json_schema(by_alias=True, schema_generator=_WithRules)
    return _Writer(whole.get("$defs", {}), with_defaults=with_defaults).schema(whole)


class _WithRules(json_schemas.GenerateJsonSchema):
    """Pydantic's generator, with the rules of each group beside its fields."""

    def model_schema(self, schema: core_schema.ModelSchema) -> json_schemas.JsonSchemaValue:
        found = super().model_schema(schema)
        validations = [rule.validation() for rule in rules.of(schema["cls"])]
        return {**found, checks.VALIDATIONS: validations} if validations else found


class _Writer:
    """Rewrites one JSON schema; holds its definitions."""

    def __init__(self, definitions: dict[str, Schema], *, with_defaults: bool) -> None:
        self._definitions = definitions
        self._with_defaults = with_defaults

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
        description = _description(node, bare, default)
        return {"description": description, **kept} if description else kept

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
        if default is None or node.get(fields.UNSET_MATTERS) or not self._with_defaults:
            return None
        if "properties" in bare:
            children = kept["properties"].items()
            return {name: child["default"] for name, child in children if "default" in child} or None
        return default if default not in ("", [], {}) else None


def _description(node: Schema, bare: Schema, default: Any) -> str:
    """The field's description, that of its group, then default and range."""
    said = [text for text in (node.get("description"), bare.get("description")) if text]
    parts = list(dict.fromkeys(" ".join(text.split()) for text in said))
    if default is not None and not isinstance(default, dict) and "Default:" not in parts[0]:
        parts.append(f"Default: {str(default).lower() if isinstance(default, bool) else default}.")
    if "minimum" in bare and "maximum" in bare:
        parts.append(f"From {bare['minimum']} to {bare['maximum']}.")
    return " ".join(parts)
