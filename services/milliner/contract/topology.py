"""The InferenceTopology: the one source of the CRD's schema, of the operator's parsing and of the local runner's.

Rules that join several fields stand in `rules`; those that need the model in `model_checks`. `parse` is the way in.
"""

from __future__ import annotations

from typing import Any, Literal

import pydantic

from milliner.contract import base, devices, errors, fields, rules
from milliner.contract import spec as spec_module


class Metadata(pydantic.BaseModel):
    """Kubernetes object metadata; what Milliner does not read is kept out of sight, not refused."""

    model_config = pydantic.ConfigDict(extra="ignore", frozen=True)

    name: fields.TopologyName = pydantic.Field(description="Name of the topology.")
    namespace: fields.Label = pydantic.Field(default="default", description="Namespace of the topology.")
    labels: dict[str, str] = pydantic.Field(default={}, description="Labels.")
    annotations: dict[str, str] = pydantic.Field(default={}, description="Annotations.")


class InferenceTopology(base.Model):
    """One model served by a cloud and the devices of one or more pools."""

    api_version: Literal["milliner.dev/v1alpha1"] = pydantic.Field(description="Always milliner.dev/v1alpha1.")
    kind: Literal["InferenceTopology"] = pydantic.Field(description="Always InferenceTopology.")
    metadata: Metadata = pydantic.Field(description="Name and namespace.")
    spec: spec_module.TopologySpec = pydantic.Field(description="What is wanted.")
    status: dict[str, Any] | None = pydantic.Field(
        default=None, description="What is; written by the operator, ignored when a topology is read."
    )

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def served_name(self) -> str:
        """The model name that clients ask for."""
        return self.spec.model.served_name or self.metadata.name


def parse(document: object, *, origin: str = "") -> InferenceTopology:
    """Validates a document against the schema and every rule; raises `SpecInvalid` (*expected*) with all problems.

    CloudOnly without pools gets `devices.GATEWAY`.
    """
    topology = base.parse(InferenceTopology, _without_nulls(document), origin=origin)
    problems = rules.problems(topology.spec)
    if problems:
        raise errors.SpecInvalid(problems, origin=origin)
    return topology if topology.spec.device_pools else _with_gateway(topology)


def _with_gateway(topology: InferenceTopology) -> InferenceTopology:
    """The topology, which needs no devices, with something that answers HTTP."""
    spec = topology.spec.model_copy(update={"device_pools": (devices.GATEWAY,)})
    return topology.model_copy(update={"spec": spec})


def _without_nulls(value: object) -> object:
    """The document without fields that are null: unset, as the API server takes them. Items of lists stay."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
