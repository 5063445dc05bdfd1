"""The enumerations of the topology; every value is CamelCase and stands in documents as it is written here.

No value is a word that YAML 1.1 reads as something else, unquoted: `Off`, `No`, `Yes`, `On`, `Null` (tests see to it).
"""

from __future__ import annotations

import enum


class StrategyType(enum.StrEnum):
    """Serving strategies."""

    HAT = "Hat"
    U_SHAPE = "UShape"
    PD_DEVICE = "PDDevice"
    CLOUD_ONLY = "CloudOnly"
    DEVICE_ONLY = "DeviceOnly"


class Dtype(enum.StrEnum):
    """Numeric type of weights and hidden states; `Auto` is what the checkpoint says."""

    AUTO = "Auto"
    FLOAT32 = "Float32"
    BFLOAT16 = "BFloat16"
    FLOAT16 = "Float16"


class Codec(enum.StrEnum):
    """How hidden states are written on the wire."""

    FLOAT32 = "Float32"
    BFLOAT16 = "BFloat16"
    FLOAT16 = "Float16"
    INT8 = "Int8"
    INT4 = "Int4"


class DraftControl(enum.StrEnum):
    """Who decides how many tokens to draft."""

    ADAPTIVE = "Adaptive"  # draft while the next draft is expected to pay for itself, measured online
    FIXED = "Fixed"  # up to the longest, ending after the first below the least confidence (Kangaroo's rule)
    OFF = "Disabled"  # no drafting


class ChunkingMode(enum.StrEnum):
    """How a prompt is cut: not at all (U-shape), in equal chunks (U-Sarathi), or as link and cloud allow (HAT)."""

    NONE = "None"
    FIXED = "Fixed"
    DYNAMIC = "Dynamic"


class CloudTokensMode(enum.StrEnum):
    """Who chooses how many tokens of an answer the cloud generates (`PDDevice`)."""

    AUTO = "Auto"
    FIXED = "Fixed"


class RefinementMode(enum.StrEnum):
    """Whether the prompt is shortened for the device (`PDDevice`)."""

    AUTO = "Auto"
    OFF = "Disabled"


class SchedulerType(enum.StrEnum):
    """Order in which the cloud serves requests (`PDDevice`)."""

    FIRST_COME_FIRST_SERVED = "FirstComeFirstServed"
    SKIP_JOIN_MLFQ = "SkipJoinMLFQ"


class EngineType(enum.StrEnum):
    """Who computes in the cloud."""

    BUILTIN = "Builtin"
    EXTERNAL = "External"


class ServiceType(enum.StrEnum):
    """Kubernetes Service type in front of the cloud replicas."""

    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"
    LOAD_BALANCER = "LoadBalancer"


class ApiExposure(enum.StrEnum):
    """How a device's HTTP API is reached."""

    HOST_PORT = "HostPort"
    SERVICE = "Service"
    NONE = "None"


class OnCloudLoss(enum.StrEnum):
    """What a device does while no cloud replica answers."""

    WAIT = "Wait"
    DRAFT_ONLY = "DraftOnly"
    FAIL = "Fail"


class TlsMode(enum.StrEnum):
    """Who issues the certificates between the tiers."""

    MANAGED = "Managed"
    CERT_MANAGER = "CertManager"
    DISABLED = "Disabled"


class AcceleratorChoice(enum.StrEnum):
    """Which accelerator a role computes on; `Auto` is CUDA where there is one."""

    AUTO = "Auto"
    CPU = "Cpu"
    CUDA = "Cuda"
