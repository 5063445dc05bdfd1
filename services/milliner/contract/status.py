"""`status`: what is. Written by the operator; the local runner neither writes nor reads it.

Everything is optional but the keys of lists: the operator writes what it knows. Integers carry their unit in the name.
"""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic

from milliner.contract import base, fields

Count = Annotated[int, pydantic.Field(ge=0, le=1_000_000)]
Revision = Annotated[str, pydantic.Field(max_length=63)]
LARGEST_GENERATION = 1 << 53  # the largest integer that every reader of JSON keeps exactly
Time = Annotated[str, pydantic.Field(max_length=64, json_schema_extra={"format": "date-time"})]


class Condition(base.Model):
    """One condition, as Kubernetes' API conventions have it."""

    type: str = pydantic.Field(
        min_length=1,
        max_length=63,
        description="Ready, SpecValid, ModelReady, CloudReady, DevicesReady, StreamReady and others.",
    )
    status: Literal["True", "False", "Unknown"] = pydantic.Field(description="Whether it holds.")
    reason: str = pydantic.Field(
        min_length=1, max_length=128, pattern="^[A-Z][A-Za-z0-9]*$", description="Why, as one CamelCase word."
    )
    message: str = pydantic.Field(default="", max_length=32_768, description="Why, in a sentence, and what to do.")
    last_transition_time: Time = pydantic.Field(description="When the status last changed.")
    observed_generation: int = pydantic.Field(
        default=0, ge=0, le=LARGEST_GENERATION, description="metadata.generation that the condition is about."
    )


class Summary(base.Model):
    """Ready out of desired, for `kubectl get`."""

    cloud: str = pydantic.Field(
        default="", max_length=32, description="Cloud replicas, as 2/2; - without a cloud tier."
    )
    devices: str = pydantic.Field(
        default="", max_length=32, description="Devices of all pools, as 11/12; ? for what is not known."
    )


class ModelStatus(base.Model):
    """The model as its files say."""

    digest: str | None = pydantic.Field(default=None, max_length=128, description="sha256 digest that both tiers have.")
    revision: Revision | None = pydantic.Field(
        default=None, description="Commit of the hub that all pods fetch, whatever was uploaded since."
    )
    layers: Count | None = pydantic.Field(default=None, description="Number of decoder layers.")
    hidden_size: Count | None = pydantic.Field(default=None, description="Width of a hidden state.")
    split_layer: Count | None = pydantic.Field(default=None, description="Layers [0, splitLayer) run on the device.")
    adapter_acceptance_percent: fields.Percent | None = pydantic.Field(
        default=None, description="Share of drafted tokens accepted when the adapter was trained, in percent."
    )


class CloudStatus(base.Model):
    """The cloud tier; absent where there is none."""

    ready: Count = pydantic.Field(default=0, description="Replicas of the current revision that serve.")
    desired: Count = pydantic.Field(default=0, description="Replicas that are wanted.")
    updated: Count = pydantic.Field(default=0, description="Replicas of the current revision, ready or not.")
    replicas: Count = pydantic.Field(
        default=0, description="Replicas that exist, of any revision, ready or not; what the scale subresource reports."
    )
    revision: Revision = pydantic.Field(default="", description="Revision that is wanted.")
    endpoint: str = pydantic.Field(default="", max_length=512, description="Where devices reach it, as host:port.")


class DevicePoolStatus(base.Model):
    """One pool of the device tier; without counts while the cluster that it lives in does not answer."""

    name: str = pydantic.Field(min_length=1, max_length=40, description="Name of the pool.")
    ready: Count | None = pydantic.Field(default=None, description="Devices of the current revision that serve.")
    desired: Count | None = pydantic.Field(default=None, description="Devices that are wanted.")
    updated: Count | None = pydantic.Field(default=None, description="Devices of the current revision, ready or not.")
    revision: Revision = pydantic.Field(default="", description="Revision that is wanted.")
    cluster: str = pydantic.Field(
        default="", max_length=253, description="Secret of the cluster that it lives in; empty: this cluster."
    )
    model_digest: str | None = pydantic.Field(
        default=None, max_length=128, description="sha256 digest of the pool's own model; absent: that of status.model."
    )


class ProbeStatus(base.Model):
    """What the last hidden-state round trip through current pods measured."""

    round_trip_microseconds: int | None = pydantic.Field(
        default=None, ge=0, le=3_600_000_000, description="Round trip of one hidden state, in microseconds."
    )
    time_to_first_token_milliseconds: int | None = pydantic.Field(
        default=None, ge=0, le=3_600_000, description="Time to first token, in milliseconds."
    )
    tokens_per_second: Count | None = pydantic.Field(default=None, description="Tokens per second of one request.")
    at: Time | None = pydantic.Field(default=None, description="When it was measured.")


class TopologyStatus(base.Model):
    """What is; written by the operator."""

    observed_generation: int | None = pydantic.Field(
        default=None, ge=0, le=LARGEST_GENERATION, description="metadata.generation that this status is about."
    )
    conditions: tuple[Condition, ...] = pydantic.Field(
        default=(), max_length=32, description="Ready, and what it follows from; Progressing and Degraded beside it."
    )
    summary: Summary | None = pydantic.Field(default=None, description="Columns of kubectl get.")
    model: ModelStatus | None = pydantic.Field(default=None, description="The model.")
    cloud: CloudStatus | None = pydantic.Field(default=None, description="The cloud tier.")
    device_pools: tuple[DevicePoolStatus, ...] = pydantic.Field(
        default=(), max_length=63, description="The device tier, pool by pool."
    )
    probe: ProbeStatus | None = pydantic.Field(default=None, description="The live probe's figures.")
    selector: str | None = pydantic.Field(
        default=None, max_length=1024, description="Label selector of the cloud pods, for the scale subresource."
    )
