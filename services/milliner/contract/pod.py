"""`pod`: what is handed on to the pods of a role as it is; the same group for cloud and device pools."""

from __future__ import annotations

from typing import Any, Literal

import pydantic

from milliner.contract import base, fields


class Toleration(base.Model):
    """A Kubernetes toleration."""

    key: str | None = pydantic.Field(default=None, max_length=317, description="Taint key. Default: all keys.")
    operator: Literal["Exists", "Equal"] = pydantic.Field(default="Equal", description="How the value is compared.")
    value: str | None = pydantic.Field(default=None, max_length=63, description="Taint value.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = pydantic.Field(
        default=None, description="Taint effect. Default: all effects."
    )
    toleration_seconds: int | None = pydantic.Field(
        default=None, ge=0, le=31_536_000, description="How long NoExecute is tolerated, in seconds. Default: for ever."
    )


class PodResources(base.Model):
    """Resource requests and limits of the role's container; Kubernetes quantities."""

    requests: fields.Quantities = pydantic.Field(
        default={}, description="Requests by resource name. Where none is set: cpu 100m and memory 256Mi, or the limit."
    )
    limits: fields.Quantities = pydantic.Field(default={}, description="Limits by resource name.")


class PodOptions(base.Model):
    """Handed on to the pods as it is."""

    node_selector: fields.NodeLabels = pydantic.Field(default={}, description="Node labels that a node must have.")
    tolerations: tuple[Toleration, ...] = pydantic.Field(default=(), max_length=32, description="Tolerations.")
    affinity: dict[str, Any] = pydantic.Field(default={}, description="Kubernetes affinity, handed on unread.")
    resources: PodResources = pydantic.Field(default=PodResources(), description="Requests and limits.")
    runtime_class_name: str = pydantic.Field(
        default="", max_length=253, description="RuntimeClass; nvidia on k3s Jetson nodes. Default: the cluster's."
    )
    priority_class_name: str = pydantic.Field(
        default="", max_length=253, description="PriorityClass. Default: the cluster's."
    )
