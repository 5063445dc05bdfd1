"""`spec.devicePools`: groups of devices that behave alike."""

from __future__ import annotations

import pydantic

from milliner.contract import base, fields, kinds
from milliner.contract.cloud import LOADING_SECONDS
from milliner.contract.emulation import DeviceEmulation
from milliner.contract.model import ModelSpec
from milliner.contract.pod import PodOptions

HEALTH_PORT = 9090  # of every pod: health, metrics and the device's probe, in plain text, without keys


class ClusterSecretRef(base.Model):
    """A Secret that holds the kubeconfig of another cluster."""

    name: str = pydantic.Field(min_length=1, max_length=253, description="Name of the Secret.")
    key: str = pydantic.Field(default="kubeconfig", min_length=1, max_length=253, description="Key inside the Secret.")


class ApiKeysSecretRef(base.Model):
    """A Secret whose every value is an API key."""

    name: str = pydantic.Field(min_length=1, max_length=253, description="Name of the Secret.")


class DeviceApi(base.Model):
    """The OpenAI-compatible HTTP API of each device."""

    port: fields.Port = pydantic.Field(default=8080, description="TCP port of the API.")
    exposure: kinds.ApiExposure = pydantic.Field(
        default=kinds.ApiExposure.HOST_PORT,
        description="HostPort: on the node's address; pools with replicas or emulation, whose pods may share a node, "
        "get a Service instead. Service: behind a Service. None: inside the pod only.",
    )
    max_concurrent_requests: int = pydantic.Field(
        default=8,
        ge=1,
        le=1024,
        description="Answers that one device generates at once (a request of `n` choices has `n`); more wait, at last "
        "with 429.",
    )
    keys_secret_ref: ApiKeysSecretRef | None = pydantic.Field(
        default=None,
        description="Secret whose values are the API keys, one of which a client must send. Default: no key asked for.",
    )


class DeviceRollout(base.Model):
    """How a new revision reaches the devices."""

    max_unavailable: fields.CountOrPercent = pydantic.Field(
        default="10%",
        description="Most devices that a rollout may take at a time, beside those that are offline: a number, or a "
        "share of the pool, rounded up. Emulated devices with replicas are replaced one by one, a spare one first.",
    )
    progress_deadline_seconds: int = pydantic.Field(
        default=LOADING_SECONDS,
        ge=1,
        le=86_400,
        description="Without progress for this long a rollout over the devices has failed, in seconds.",
    )


class DevicePool(base.Model):
    """One pool: with `replicas` a Deployment, without one pod on each matching node."""

    name: fields.PoolName = pydantic.Field(description="Name of the pool, unique in the topology.")
    replicas: fields.Replicas | None = pydantic.Field(
        default=None, description="Number of devices. Default: one on each node that matches; 1 without Kubernetes."
    )
    node_selector: fields.NodeLabels = pydantic.Field(default={}, description="Labels of the nodes that are devices.")
    cluster_secret_ref: ClusterSecretRef | None = pydantic.Field(
        default=None, description="The cluster that the pool lives in. Default: this cluster."
    )
    model: ModelSpec | None = pydantic.Field(
        default=None, description="A model of the pool's own, with PDDevice and DeviceOnly. Default: spec.model."
    )
    kv_cache_mebibytes: int = pydantic.Field(
        default=1024,
        ge=1,
        le=16_777_216,
        description="Memory for KV caches of one device that holds a whole model (PDDevice, DeviceOnly), in mebibytes: "
        "of the answers under way, and of ended ones while there is room.",
    )
    api: DeviceApi = pydantic.Field(default=DeviceApi(), description="The HTTP API of each device.")
    pod: PodOptions = pydantic.Field(default=PodOptions(), description="Scheduling and runtime of the pods.")
    rollout: DeviceRollout = pydantic.Field(
        default=DeviceRollout(), description="How a new revision reaches the devices."
    )
    drain_seconds: int = pydantic.Field(
        default=60,  # arbitrary: long enough for most answers
        ge=0,
        le=3600,
        description="How long answers under way may go on when a device's pod is asked to end, in seconds.",
    )
    emulation: DeviceEmulation | None = pydantic.Field(
        default=None, description="Makes ordinary nodes behave like devices. Default: none."
    )

    @property
    def local_replicas(self) -> int:
        """Devices to start where there are no nodes to match: `replicas`, or 1."""
        return 1 if self.replicas is None else self.replicas


# What answers HTTP where the cloud does everything and no pool is named: it has a tokenizer and no model.
GATEWAY = DevicePool(name="gateway", replicas=1)
