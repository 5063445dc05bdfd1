"""The schema's own grain, walked field by field: what API conventions ask of every one of them."""

from __future__ import annotations

import enum
import types
import typing
from collections.abc import Iterator

import annotated_types
import pydantic
import pytest
import yaml
from pydantic.fields import FieldInfo

from milliner.contract import role_config, topology


def walk(model: type[pydantic.BaseModel], path: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every field below a model with its dotted path."""
    for name, info in model.model_fields.items():
        here = f"{path}.{info.alias or name}"
        yield here, info
        for child in models_in(info.annotation):
            yield from walk(child, here)


def models_in(annotation: object) -> list[type[pydantic.BaseModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return [annotation] if issubclass(annotation, pydantic.BaseModel) else []
    return [model for argument in typing.get_args(annotation) for model in models_in(argument)]


def plain_types(annotation: object) -> set[type]:
    if isinstance(annotation, type):
        return {annotation}
    return {found for argument in typing.get_args(annotation) for found in plain_types(argument)}


FIELDS = dict(walk(topology.InferenceTopology))


@pytest.mark.parametrize("path", FIELDS)
def test_field_says_what_it_is(path: str) -> None:
    description = FIELDS[path].description
    assert description
    assert description.endswith(".")


@pytest.mark.parametrize("path", FIELDS)
def test_field_is_no_float_and_enums_are_camel_case(path: str) -> None:
    for found in plain_types(FIELDS[path].annotation):
        assert found is not float
        if issubclass(found, enum.Enum):
            assert all(member.value[0].isupper() and "_" not in member.value for member in found)


@pytest.mark.parametrize("path", [path for path, info in FIELDS.items() if int in plain_types(info.annotation)])
def test_integer_has_both_bounds(path: str) -> None:
    info = FIELDS[path]
    bounds = list(info.metadata)
    for argument in typing.get_args(info.annotation):
        bounds += getattr(argument, "__metadata__", ())
    for nested in list(bounds):
        bounds += getattr(nested, "metadata", [])
    assert any(isinstance(bound, annotated_types.Ge) for bound in bounds), f"{path} has no minimum"
    assert any(isinstance(bound, annotated_types.Le) for bound in bounds), f"{path} has no maximum"


@pytest.mark.parametrize(
    "root", [topology.InferenceTopology, role_config.CloudRoleConfig, role_config.DeviceRoleConfig]
)
def test_unknown_fields_are_refused_everywhere_but_in_metadata(root: type[pydantic.BaseModel]) -> None:
    open_models = {
        model.__name__
        for _, info in walk(root)
        for model in models_in(info.annotation)
        if model.model_config.get("extra") != "forbid"
    }
    assert open_models <= {"Metadata"}


@pytest.mark.parametrize("path", FIELDS)
def test_enum_values_stay_text_in_yaml_without_quotes(path: str) -> None:
    for found in plain_types(FIELDS[path].annotation):
        if issubclass(found, enum.Enum):
            assert [yaml.safe_load(member.value) for member in found] == [member.value for member in found]
