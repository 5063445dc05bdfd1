"""Writes docs/topology.md, the reference of every field, from the schema: `make docs`. A test keeps the file equal.

Pure but for `main`, which writes one file.
"""

from __future__ import annotations

import enum
import json
import pathlib
import sys
import types
import typing
from collections.abc import Iterator

import annotated_types
import pydantic
import pydantic_core
from pydantic.fields import FieldInfo

from milliner.contract import status, topology

_HEAD = """# InferenceTopology: every field

Generated from the schema by `make docs`; do not edit. `apiVersion: milliner.dev/v1alpha1`, `kind: InferenceTopology`.
Integers carry their unit in the name. A field without a default is required; `–` means unset, and the description says
what then holds. Samples: `manifests/samples/`.
"""


def markdown() -> str:
    """The whole reference."""
    sections = [_HEAD]
    wanted = _groups(topology.InferenceTopology, "", seen=set())
    for path, model in (*wanted, *_groups(status.TopologyStatus, "status", seen=set())):
        title = f"## `{path}`" if path else "## The object"
        summary = (model.__doc__ or "").strip().splitlines()[0]
        rows = [_row(info, name) for name, info in model.model_fields.items()]
        sections.append(
            "\n".join([title, "", summary, "", "| field | type | default | what |", "|---|---|---|---|", *rows])
        )
    return "\n\n".join(section.rstrip() for section in sections) + "\n"


def _groups(
    model: type[pydantic.BaseModel], path: str, *, seen: set[type[pydantic.BaseModel]]
) -> Iterator[tuple[str, type[pydantic.BaseModel]]]:
    """Every model with the path where it first occurs, depth first; one that returns elsewhere is not repeated."""
    seen.add(model)
    yield path, model
    for name, info in model.model_fields.items():
        child = _model(info.annotation)
        if child is not None and child not in seen:
            here = f"{path}.{info.alias or name}" if path else info.alias or name
            yield from _groups(child, here + ("[]" if _is_list(info.annotation) else ""), seen=seen)


def _row(info: FieldInfo, name: str) -> str:
    what = (info.description or "").replace("|", "\\|")
    return f"| `{info.alias or name}` | {_type(info)} | {_default(info)} | {what} |"


def _type(info: FieldInfo) -> str:
    members = [member for member in _arguments(info.annotation) if member is not types.NoneType]
    bare = members[0] if len(members) == 1 else info.annotation
    if _is_list(bare):
        return f"list of {_name(_arguments(bare)[0])}"
    return _name(bare) + _bounds(info, bare)


def _name(annotation: object) -> str:
    if typing.get_origin(annotation) is typing.Annotated:
        return _name(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) is typing.Literal:
        return ", ".join(f"`{value}`" for value in typing.get_args(annotation))
    if typing.get_origin(annotation) is dict:
        return "map"
    if isinstance(annotation, type):
        if issubclass(annotation, enum.Enum):
            return ", ".join(f"`{member.value}`" for member in annotation)
        if issubclass(annotation, pydantic.BaseModel):
            return "group"
        return {int: "integer", str: "text", bool: "boolean"}.get(annotation, annotation.__name__)
    return str(annotation)


def _bounds(info: FieldInfo, bare: object) -> str:
    found = [*info.metadata, *getattr(bare, "__metadata__", ())]
    for nested in list(found):
        found += getattr(nested, "metadata", [])
    low = next((bound.ge for bound in found if isinstance(bound, annotated_types.Ge)), None)
    high = next((bound.le for bound in found if isinstance(bound, annotated_types.Le)), None)
    return f" {low} to {high}" if low is not None and high is not None else ""


def _default(info: FieldInfo) -> str:
    value = info.default
    if value is pydantic_core.PydanticUndefined:
        return "required"
    if isinstance(value, pydantic.BaseModel):
        return "see group"
    if value is None or value in ("", (), {}):
        return "–"
    return f"`{value.value if isinstance(value, enum.Enum) else json.dumps(value).strip(chr(34))}`"


def _arguments(annotation: object) -> tuple[object, ...]:
    return typing.get_args(annotation)


def _is_list(annotation: object) -> bool:
    return typing.get_origin(annotation) is tuple


def _model(annotation: object) -> type[pydantic.BaseModel] | None:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, pydantic.BaseModel) else None
    return next((found for found in map(_model, _arguments(annotation)) if found is not None), None)


def main() -> None:
    """Writes the reference to the file that the command line names."""
    pathlib.Path(sys.argv[1]).write_text(markdown(), encoding="utf-8")


if __name__ == "__main__":
    main()
