"""Turns pydantic's validation errors into problems that say the path, what was found and what to write instead."""

from __future__ import annotations

import difflib
import enum
import json
import typing
from typing import Any

import pydantic
import pydantic_core

from milliner.contract import errors


def problems(error: pydantic.ValidationError, model: type[pydantic.BaseModel]) -> list[errors.Problem]:
    """One problem per error, in document order."""
    return [_problem(details, model) for details in error.errors(include_url=False)]


def path_text(location: tuple[int | str, ...]) -> str:
    """`("spec", "devicePools", 0, "name")` as `spec.devicePools[0].name`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _problem(details: pydantic_core.ErrorDetails, model: type[pydantic.BaseModel]) -> errors.Problem:
    location = tuple(part for part in details["loc"] if part != "[key]")
    return errors.Problem(path=path_text(location), message=_message(details, location, model))


def _message(
    details: pydantic_core.ErrorDetails, location: tuple[int | str, ...], model: type[pydantic.BaseModel]
) -> str:
    kind, found, context = details["type"], _shown(details.get("input")), details.get("ctx", {})
    match kind:
        case "extra_forbidden":
            return _unknown_field(str(location[-1]), _fields_at(model, location[:-1]))
        case "missing":
            return "is required"
        case "enum" | "literal_error":
            return f"found {found}, use one of {_choices(str(context.get('expected', '')))}"
        case "greater_than_equal":
            return f"found {found}, use {context['ge']} or more"
        case "less_than_equal":
            return f"found {found}, use {context['le']} or less"
        case "int_type" | "int_from_float" | "int_parsing":
            return f"found {found}, use a whole number without quotes"
        case "bool_type":
            return f"found {found}, use true or false"
        case "string_type":
            return f"found {found}, use text (put it in quotes)"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"found {found}, use a mapping of fields"
        case "tuple_type" | "list_type":
            return f"found {found}, use a list"
        case "value_error":
            return str(context["error"])
        case "too_long":
            return f"has {context['actual_length']} entries, use at most {context['max_length']}"
        case "string_too_short" | "string_too_long":
            bounds = [str(context[key]) for key in ("min_length", "max_length") if key in context]
            return (
                f"found {found}, use text of at {'least' if kind.endswith('short') else 'most'} {bounds[0]} characters"
            )
        case _:
            return f"found {found}: {details['msg']}"


def _unknown_field(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name.replace("_", "").lower(), [field.lower() for field in known], n=1, cutoff=0.6)
    suggestion = next((field for field in known if near and field.lower() == near[0]), None)
    if suggestion is not None:
        return f"unknown field, did you mean {suggestion}?"
    return f"unknown field, known here: {', '.join(known)}" if known else "unknown field"


def _choices(expected: str) -> str:
    return expected.replace("'", "").replace(" or ", ", ")


def _shown(value: object) -> str:
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


def _fields_at(model: type[pydantic.BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The camelCase names of the fields of the model at a location."""
    current: type[pydantic.BaseModel] | None = model
    for part in location:
        if isinstance(part, int):
            continue
        if current is None:
            return []
        field = next((info for info in current.model_fields.values() if info.alias == part), None)
        current = _model_of(field.annotation) if field is not None else None
    if current is None:
        return []
    return [info.alias or name for name, info in current.model_fields.items()]


def _model_of(annotation: Any) -> type[pydantic.BaseModel] | None:
    """The pydantic model inside `X`, `X | None`, `tuple[X, ...]` or `Annotated[X, ...]`, if there is one."""
    if isinstance(annotation, type) and not isinstance(annotation, enum.EnumMeta):
        try:
            if issubclass(annotation, pydantic.BaseModel):
                return annotation
        except TypeError:  # a generic alias such as dict[str, str] passes isinstance but not issubclass
            return None
    for argument in typing.get_args(annotation):
        found = _model_of(argument)
        if found is not None:
            return found
    return None
