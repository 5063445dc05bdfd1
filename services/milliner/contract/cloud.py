"""`spec.cloud`: replicas, engine, accelerator and exposure of the cloud tier."""

from __future__ import annotations

from typing import Annotated

import pydantic

from milliner.contract import base, fields, kinds
from milliner.contract.emulation import CloudEmulation
from milliner.contract.pod import PodOptions

# Arbitrary: the longest that reading a large model over a network may take. A role that loads is given that long, and
# a rollout that waits for one has not failed before.
LOADING_SECONDS = 1800
OneOrMore = Annotated[int, pydantic.Field(ge=1, le=10_000)]


class Scaling(base.Model):
    """Autoscaling of the cloud replicas: by queue time where the operator is told of a metric for it, else by CPU. Each
    pipeline stage is scaled for itself."""

    min_replicas: OneOrMore = pydantic.Field(default=1, description="Fewest replicas.")
    max_replicas: OneOrMore = pydantic.Field(description="Most replicas.")
    target_queue_milliseconds: int = pydantic.Field(
        default=20, ge=1, le=60_000, description="Queue time that is aimed at, in milliseconds."
    )
    # The customary target of Kubernetes' own examples; a share of the request may well be above 100.
    target_cpu_percent: int = pydantic.Field(
        default=70,
        ge=1,
        le=1000,
        description="CPU use that is aimed at where queue time is not read, in percent of the pods' CPU request.",
    )
    scale_down_stabilization_seconds: int = pydantic.Field(
        default=120,  # arbitrary: longer than most answers take
        ge=0,
        le=3600,  # autoscaling/v2 takes no more
        description="Replicas go only when fewer have been enough for this long, in seconds.",
    )


class Accelerator(base.Model):
    """The extended resource that each cloud pod asks for."""

    resource_name: str = pydantic.Field(
        default="nvidia.com/gpu", min_length=1, max_length=253, description="Name of the extended resource."
    )
    count: int = pydantic.Field(default=1, ge=1, le=64, description="How many of it each pod has.")


class ExternalEngine(base.Model):
    """A server that users already run: OpenAI-compatible, token ids in and out."""

    url: fields.Url = pydantic.Field(description="Base URL, such as http://vllm.models.svc:8000/v1.")
    model: str | None = pydantic.Field(
        default=None,
        min_length=1,
        max_length=1024,
        description="Name by which the server knows the model. Default: the only one that it lists.",
    )
    api_key_secret_ref: fields.SecretKeyRef | None = pydantic.Field(
        default=None, description="Secret with the key that the server asks for. Default: none."
    )


class Engine(base.Model):
    """Who computes in the cloud, and within which limits. Batch, session and memory limits hold for each replica."""

    type: kinds.EngineType = pydantic.Field(
        default=kinds.EngineType.BUILTIN,
        description="Builtin: Milliner's engine for slices. External: a server that runs the whole model.",
    )
    max_batch_tokens: int = pydantic.Field(
        default=2048, ge=1, le=1_048_576, description="Token budget of one batch, over all sessions."
    )
    kv_cache_mebibytes: int | None = pydantic.Field(
        default=None,
        ge=1,
        le=16_777_216,
        description=(
            "Memory for KV caches of one replica, in mebibytes; its pipeline stages share it by their layers. "
            "Default: 1024 without an accelerator, 16384 with one."
        ),
    )
    kv_swap_mebibytes: int | None = pydantic.Field(
        default=None,
        ge=0,
        le=16_777_216,
        description=(
            "Host memory of one replica for the KV caches of preempted sequences, in mebibytes; 0: they stay where "
            "they are. Only with strategy.pdDevice.scheduler SkipJoinMLFQ. Default: 0 without an accelerator, 4096 "
            "with one."
        ),
    )
    max_sessions: int = pydantic.Field(default=256, ge=1, le=65_536, description="Most sessions at once.")
    session_idle_seconds: int = pydantic.Field(
        default=300, ge=1, le=86_400, description="A session without a frame for this long is closed, in seconds."
    )
    page_tokens: int = pydantic.Field(default=64, ge=1, le=1024, description="Positions in one page of the KV cache.")
    external: ExternalEngine | None = pydantic.Field(default=None, description="The server of type External.")


class CloudService(base.Model):
    """The Kubernetes Service in front of the replicas."""

    type: kinds.ServiceType = pydantic.Field(
        default=kinds.ServiceType.CLUSTER_IP,
        description="LoadBalancer or NodePort where device pools live in another cluster.",
    )


class Rollout(base.Model):
    """How a new revision replaces the old one."""

    max_unavailable: int = pydantic.Field(
        default=1, ge=0, le=10_000, description="Most replicas that may be away during a rollout."
    )
    progress_deadline_seconds: int = pydantic.Field(
        default=LOADING_SECONDS,
        ge=1,
        le=86_400,
        description="Without progress for this long a rollout has failed, in seconds.",
    )


class CloudSpec(base.Model):
    """The cloud tier."""

    replicas: fields.Replicas | None = pydantic.Field(
        default=None, description="Number of replicas; not together with scaling. Default: 1."
    )
    scaling: Scaling | None = pydantic.Field(default=None, description="Autoscaling. Default: none.")
    pipeline_stages: int = pydantic.Field(
        default=1, ge=1, le=64, description="Number of pods that the cloud's layers of one replica are spread over."
    )
    accelerator: Accelerator | None = pydantic.Field(default=None, description="Accelerator. Default: CPU.")
    engine: Engine = pydantic.Field(default=Engine(), description="Who computes, and within which limits.")
    service: CloudService = pydantic.Field(default=CloudService(), description="How devices reach the replicas.")
    rollout: Rollout = pydantic.Field(default=Rollout(), description="How revisions are replaced.")
    pod: PodOptions = pydantic.Field(default=PodOptions(), description="Scheduling and runtime of the pods.")
    emulation: CloudEmulation | None = pydantic.Field(
        default=None, description="Makes the node behave like a cloud accelerator. Default: none."
    )

    @property
    def desired_replicas(self) -> int:
        """Replicas to start with: `replicas`, or the fewest that scaling allows, or 1; 0 with an external engine."""
        if self.engine.external is not None:
            return 0
        if self.scaling is not None:
            return self.scaling.min_replicas
        return 1 if self.replicas is None else self.replicas

    @property
    def kv_cache_bytes(self) -> int:
        """Budget for KV caches of one replica, over all its pipeline stages, in bytes, with the default resolved."""
        mebibytes = self.engine.kv_cache_mebibytes
        if mebibytes is None:
            mebibytes = 1024 if self.accelerator is None else 16_384
        return mebibytes * 1024 * 1024

    @property
    def kv_swap_bytes(self) -> int:
        """Host memory for preempted KV caches of one replica in bytes, with the default resolved."""
        mebibytes = self.engine.kv_swap_mebibytes
        if mebibytes is None:  # without an accelerator it would be the same memory; 4 GiB was vLLM's swap space
            mebibytes = 0 if self.accelerator is None else 4096
        return mebibytes * 1024 * 1024
