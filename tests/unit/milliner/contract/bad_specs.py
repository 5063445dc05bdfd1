"""Documents that are refused, with the words: one table for the schema's own tests and for those at an API server."""

from __future__ import annotations

import dataclasses
from typing import Any

from tests.unit.milliner.contract import documents_of

FORMS = "hf://org/name@revision, pvc://claim/path, https://host/path, builtin://demo, file:///folder or a folder's path"
LABEL_REMEDY = "use lower-case letters, digits and hyphens, a letter or digit at both ends"
DIGEST_REMEDY = "write sha256: and 64 hexadecimal digits, lower case"
DYNAMIC_REMEDY = "set mode: Fixed, or use minTokens and maxTokens with mode: Dynamic"


@dataclasses.dataclass(frozen=True, slots=True)
class BadSpec:
    """Changes to the smallest document, the path of the problem and its message."""

    changes: dict[str, Any]
    path: str
    message: str

    @property
    def document(self) -> dict[str, Any]:
        return documents_of.changed(self.changes)


def _strategy(kind: str, **groups: Any) -> dict[str, Any]:
    return {"spec.strategy": {"type": kind, **groups}}


def _foreign(group: str, *, owner: str, kind: str, remedy: str) -> BadSpec:
    changes = _strategy(kind, **{group: {}})
    message = f"strategy.{group} is set but strategy.type is {kind}: {remedy} or set type: {owner}"
    return BadSpec(changes, f"spec.strategy.{group}", message)


# Refused with the same words by `topology.parse` and by the API server.
RULES = [
    _foreign("hat", owner="Hat", kind="UShape", remedy="move the options to strategy.uShape"),
    _foreign("hat", owner="Hat", kind="PDDevice", remedy="move the options to strategy.pdDevice"),
    _foreign("hat", owner="Hat", kind="CloudOnly", remedy="remove it"),
    _foreign("uShape", owner="UShape", kind="Hat", remedy="move the options to strategy.hat"),
    _foreign("uShape", owner="UShape", kind="DeviceOnly", remedy="remove it"),
    _foreign("pdDevice", owner="PDDevice", kind="Hat", remedy="move the options to strategy.hat"),
    BadSpec(
        {**_strategy("PDDevice", pdDevice={}), "spec.cloud": {"engine": {"kvSwapMebibytes": 64}}},
        "spec.cloud.engine.kvSwapMebibytes",
        "cloud.engine.kvSwapMebibytes is set but nobody is preempted: drop it, or set strategy.type: PDDevice with "
        "pdDevice.scheduler: SkipJoinMLFQ",
    ),
    BadSpec(
        _strategy("Hat", hat={"chunking": {"minTokens": 512, "maxTokens": 256}}),
        "spec.strategy.hat.chunking",
        "chunking.minTokens (512) is above maxTokens (256)",
    ),
    BadSpec(
        _strategy("Hat", hat={"chunking": {"minTokens": 2000}}),
        "spec.strategy.hat.chunking",
        "chunking.minTokens (2000) is above maxTokens (1024)",
    ),
    BadSpec(
        _strategy("UShape", uShape={"chunking": {"maxTokens": 8}}),
        "spec.strategy.uShape.chunking",
        "chunking.minTokens (16) is above maxTokens (8)",
    ),
    BadSpec(
        _strategy("Hat", hat={"chunking": {"tokens": 512}}),
        "spec.strategy.hat.chunking",
        f"chunking.tokens is set but chunking.mode is Dynamic: {DYNAMIC_REMEDY}",
    ),
    BadSpec(
        _strategy("UShape", uShape={"chunking": {"tokens": 64}}),
        "spec.strategy.uShape.chunking",
        f"chunking.tokens is set but chunking.mode is None: {DYNAMIC_REMEDY}",
    ),
    BadSpec(
        _strategy("PDDevice", pdDevice={"pacing": {"minIntervalMilliseconds": 60}}),
        "spec.strategy.pdDevice.pacing",
        "pacing.minIntervalMilliseconds (60) is above maxIntervalMilliseconds (50)",
    ),
    BadSpec(
        {"spec.cloud": {"replicas": 2, "scaling": {"maxReplicas": 3}}},
        "spec.cloud",
        "cloud.replicas and cloud.scaling are both set: with scaling, drop replicas",
    ),
    BadSpec(
        {"spec.cloud.scaling": {"minReplicas": 4, "maxReplicas": 3}},
        "spec.cloud.scaling",
        "scaling.minReplicas (4) is above maxReplicas (3)",
    ),
    BadSpec(
        {"spec.cloud.engine": {"type": "External", "external": {"url": "http://vllm/v1"}}},
        "spec.cloud.engine.type",
        "cloud.engine.type is External but strategy.type is Hat, whose cloud computes a slice: set engine.type: "
        "Builtin, or strategy.type: PDDevice or CloudOnly",
    ),
    BadSpec(
        {"spec.strategy.type": "PDDevice", "spec.cloud.engine": {"type": "External"}},
        "spec.cloud.engine.external",
        "cloud.engine.type is External but external is not set: give external.url",
    ),
    BadSpec(
        {"spec.cloud.engine": {"external": {"url": "http://vllm/v1"}}},
        "spec.cloud.engine.external",
        "cloud.engine.external is set but engine.type is Builtin: drop external or set engine.type: External",
    ),
    BadSpec(
        {
            "spec.strategy.type": "CloudOnly",
            "spec.cloud.replicas": 2,
            "spec.cloud.engine": {"type": "External", "external": {"url": "http://vllm/v1"}},
        },
        "spec.cloud.engine.type",
        "cloud.engine.type is External, whose replicas are not started here: drop cloud.replicas and cloud.scaling",
    ),
    BadSpec(
        {"spec.strategy.type": "PDDevice", "spec.cloud.pipelineStages": 2},
        "spec.cloud.pipelineStages",
        "cloud.pipelineStages is 2 but strategy.type is PDDevice, which runs a whole model in one process: use 1, or "
        "set type: Hat or UShape",
    ),
    BadSpec(
        {"spec.devicePools": []},
        "spec.devicePools",
        "devicePools: at least one pool is needed (type CloudOnly needs none)",
    ),
    BadSpec(
        {"spec.devicePools": [{"name": "a"}, {"name": "b"}, {"name": "c"}, {"name": "b"}, {"name": "b"}]},
        "spec.devicePools",
        "devicePools: the name b is used 3 times: give each pool its own",
    ),
    BadSpec(
        {"spec.devicePools": [{"name": "a"}, {"name": "b", "model": {"source": "builtin://demo"}}]},
        "spec.devicePools",
        "devicePools: pool b names a model but strategy.type is Hat, which splits spec.model: drop it, or set type: "
        "PDDevice or DeviceOnly",
    ),
    BadSpec(
        {"spec.strategy.type": "UShape", "spec.fallback": {"onCloudLoss": "DraftOnly"}},
        "spec.fallback.onCloudLoss",
        "fallback.onCloudLoss is DraftOnly but strategy.type is UShape, which has no drafting model: use Wait or Fail, "
        "or set type: Hat",
    ),
    BadSpec(
        {"spec.tls": {"mode": "CertManager"}},
        "spec.tls.issuerRef",
        "tls.mode is CertManager but issuerRef is not set: give issuerRef.name",
    ),
    BadSpec(
        {"spec.tls": {"issuerRef": {"name": "ca"}}},
        "spec.tls.issuerRef",
        "tls.issuerRef is set but tls.mode is Managed: drop issuerRef or set mode: CertManager",
    ),
    BadSpec(
        {"spec.tls": {"mode": "Disabled", "issuerRef": {"name": "ca"}}},
        "spec.tls.issuerRef",
        "tls.issuerRef is set but tls.mode is Disabled: drop issuerRef or set mode: CertManager",
    ),
    BadSpec(
        {"spec.tls": {"mode": "CertManager", "issuerRef": {"name": "ca", "kind": "StepIssuer"}}},
        "spec.tls.issuerRef.kind",
        "tls.issuerRef.kind is StepIssuer, which cert-manager.io does not have: use Issuer or ClusterIssuer, or give "
        "the group of an external issuer",
    ),
    BadSpec(
        {"spec.tls": {"mode": "CertManager", "issuerRef": {"name": "ca", "kind": "issuer"}}},
        "spec.tls.issuerRef.kind",
        "'issuer' is no kind: write a capital letter, then letters and digits, such as ClusterIssuer",
    ),
    BadSpec(
        {"spec.tls": {"mode": "CertManager", "issuerRef": {"name": "ca", "group": "Cert-Manager.io"}}},
        "spec.tls.issuerRef.group",
        "'Cert-Manager.io' is no API group: write a domain in lower case, such as cert-manager.io",
    ),
    BadSpec(
        {"spec.cloud.pod": {"resources": {"requests": {"cpu": 2, "memory": "1Gi"}, "limits": {"cpu": "1500m"}}}},
        "spec.cloud.pod.resources.requests",
        "resources.requests.cpu (2) is above limits.cpu (1500m): lower the request or raise the limit",
    ),
    BadSpec(
        {"spec.devicePools.0.pod.resources": {"requests": {"b": 2, "a": "1Gi"}, "limits": {"b": 1, "a": "1e9"}}},
        "spec.devicePools[0].pod.resources.requests",
        "resources.requests.a (1Gi) is above limits.a (1e9): lower the request or raise the limit",
    ),
    BadSpec(
        {"spec.tls": {"mode": "Disabled"}, "spec.cloud.service": {"type": "NodePort"}},
        "spec.tls.mode",
        "tls.mode is Disabled but cloud.service.type is NodePort: the cloud would be open to anyone, in plain text: "
        "set tls.mode: Managed or CertManager, or service.type: ClusterIP",
    ),
    BadSpec(
        {
            "spec.tls": {"mode": "Disabled"},
            "spec.devicePools": [{"name": "a"}, {"name": "b", "clusterSecretRef": {"name": "edge"}}],
        },
        "spec.tls.mode",
        "tls.mode is Disabled but pool b lives in another cluster: the cloud would be open to anyone, in plain text: "
        "set tls.mode: Managed or CertManager",
    ),
    BadSpec(
        {"spec.devicePools.0.api": {"port": 9090}},
        "spec.devicePools[0].api.port",
        "api.port is 9090, where each pod has health and metrics: use another",
    ),
    *(
        BadSpec(
            {"spec.devicePools.0.rollout": {"maxUnavailable": wrong}},
            "spec.devicePools[0].rollout.maxUnavailable",
            f"'{wrong}' is neither a number of devices nor a share of them: write 1 or more, or 1% to 100%",
        )
        for wrong in (0, -1, 100_000, "0%", "101%", "few")
    ),
    BadSpec(
        {"metadata.name": "7b"},
        "metadata.name",
        "'7b' begins with a digit, which names of Services must not: put a letter before it",
    ),
    BadSpec({"metadata.name": "chat.v2"}, "metadata.name", f"'chat.v2' is no DNS label: {LABEL_REMEDY}"),
    BadSpec({"metadata.name": "Chat"}, "metadata.name", f"'Chat' is no DNS label: {LABEL_REMEDY}"),
    BadSpec({"spec.devicePools.0.name": "Orin"}, "spec.devicePools[0].name", f"'Orin' is no DNS label: {LABEL_REMEDY}"),
    BadSpec({"spec.devicePools.0.name": "a-"}, "spec.devicePools[0].name", f"'a-' is no DNS label: {LABEL_REMEDY}"),
    BadSpec(
        {"spec.model.digest": "sha256:12"},
        "spec.model.digest",
        f"'sha256:12' is no SHA-256 digest: {DIGEST_REMEDY}",
    ),
    BadSpec(
        {"spec.model.digest": "sha256:" + "A" * 64},
        "spec.model.digest",
        f"'sha256:{'A' * 64}' is no SHA-256 digest: {DIGEST_REMEDY}",
    ),
    BadSpec({"spec.model.source": " "}, "spec.model.source", f"is empty: use {FORMS}"),
    BadSpec(
        {"spec.model.source": "ftp://x"},
        "spec.model.source",
        f"'ftp://x' starts with ftp://, which is unknown: use {FORMS}",
    ),
    BadSpec(
        {"spec.model.source": "file://models/a"},
        "spec.model.source",
        "'file://models/a' names no absolute folder: write file:///folder, with three slashes",
    ),
    BadSpec(
        {"spec.model.source": "hf://Qwen"},
        "spec.model.source",
        "'hf://Qwen' names no repository: write hf://org/name or hf://org/name@revision",
    ),
    BadSpec(
        {"spec.model.source": "hf://a/b/c@main"},
        "spec.model.source",
        "'hf://a/b/c@main' names no repository: write hf://org/name or hf://org/name@revision",
    ),
    BadSpec(
        _strategy("Hat", hat={"adapter": {"source": "pvc://"}}),
        "spec.strategy.hat.adapter.source",
        f"'pvc://' names nothing after pvc://: use {FORMS}",
    ),
    BadSpec(
        _strategy("UShape", uShape={"heads": {"source": "s3://bucket"}}),
        "spec.strategy.uShape.heads.source",
        f"'s3://bucket' starts with s3://, which is unknown: use {FORMS}",
    ),
    BadSpec(
        {"spec.tracing": {"otlpEndpoint": "collector:4317"}},
        "spec.tracing.otlpEndpoint",
        "'collector:4317' is no URL: write http://host:port or https://host/path",
    ),
    BadSpec(
        {"spec.cloud.pod": {"resources": {"requests": {"cpu": "two"}}}},
        "spec.cloud.pod.resources.requests.cpu",
        "'two' is no quantity: write 2, 500m or 4Gi",
    ),
    BadSpec(
        {"spec.devicePools.0.pod": {"resources": {"limits": {"memory": "-4Gi"}}}},
        "spec.devicePools[0].pod.resources.limits.memory",
        "'-4Gi' is no quantity: write 2, 500m or 4Gi",
    ),
    BadSpec(
        {"spec.devicePools.0.nodeSelector": {"kind": "a b"}},
        "spec.devicePools[0].nodeSelector.kind",
        "'a b' is no label value: use letters, digits, hyphens, underscores and dots, a letter or digit at both ends",
    ),
]

# Refused by both at the same path; the words are pydantic's made readable here, and Kubernetes' own there.
SCHEMA = [
    BadSpec({"spec.model": {}}, "spec.model.source", "is required"),
    BadSpec({"spec.model": {"source": None}}, "spec.model.source", "is required"),
    BadSpec({"spec.devicePools": [{}]}, "spec.devicePools[0].name", "is required"),
    BadSpec({"spec.cloud.scaling": {}}, "spec.cloud.scaling.maxReplicas", "is required"),
    BadSpec(
        {"spec.model.dtype": "bf16"},
        "spec.model.dtype",
        "found 'bf16', use one of Auto, Float32, BFloat16, Float16",
    ),
    BadSpec({"spec.tls": {"mode": "CertManager", "issuerRef": {}}}, "spec.tls.issuerRef.name", "is required"),
    BadSpec({"spec.tls": {"mode": "Off"}}, "spec.tls.mode", "found 'Off', use one of Managed, CertManager, Disabled"),
    BadSpec({"spec.cloud.replicas": "2"}, "spec.cloud.replicas", "found '2', use a whole number without quotes"),
    BadSpec({"spec.cloud.replicas": True}, "spec.cloud.replicas", "found true, use a whole number without quotes"),
    BadSpec({"spec.cloud.replicas": 1.5}, "spec.cloud.replicas", "found 1.5, use a whole number without quotes"),
    BadSpec({"spec.cloud.replicas": -1}, "spec.cloud.replicas", "found -1, use 0 or more"),
    BadSpec({"spec.cloud.pipelineStages": 0}, "spec.cloud.pipelineStages", "found 0, use 1 or more"),
    BadSpec(
        {"spec.devicePools.0.api": {"port": 70000}}, "spec.devicePools[0].api.port", "found 70000, use 65535 or less"
    ),
    BadSpec({"spec.devicePools.0.api": {"port": 0}}, "spec.devicePools[0].api.port", "found 0, use 1 or more"),
    BadSpec({"spec.tracing": {"samplingPercent": 101}}, "spec.tracing.samplingPercent", "found 101, use 100 or less"),
    BadSpec(
        _strategy("Hat", hat={"drafting": {"maxTokens": 33}}),
        "spec.strategy.hat.drafting.maxTokens",
        "found 33, use 32 or less",
    ),
    BadSpec({"spec.devicePools": "a"}, "spec.devicePools", "found 'a', use a list"),
    BadSpec({"spec.strategy": "Hat"}, "spec.strategy", "found 'Hat', use a mapping of fields"),
    BadSpec(
        {"spec.devicePools": [{"name": f"p{index}"} for index in range(64)]},
        "spec.devicePools",
        "has 64 entries, use at most 63",
    ),
    BadSpec(
        {"spec.model.servedName": "x" * 254},
        "spec.model.servedName",
        f"found '{'x' * 76}..., use text of at most 253 characters",
    ),
    BadSpec({"spec.model.servedName": ""}, "spec.model.servedName", "found '', use text of at least 1 characters"),
]

# Fields that the schema does not know. The API server (and kubectl) name the field, without a suggestion.
UNKNOWN = [
    BadSpec({"spec.clowd": {}}, "spec.clowd", "unknown field, did you mean cloud?"),
    BadSpec(
        _strategy("Hat", hat={"splitLayr": 2}),
        "spec.strategy.hat.splitLayr",
        "unknown field, did you mean splitLayer?",
    ),
    BadSpec(
        _strategy("Hat", hat={"split_layer": 2}),
        "spec.strategy.hat.split_layer",
        "unknown field, did you mean splitLayer?",
    ),
    BadSpec(
        _strategy("Hat", hat={"codec": {"zzz": 1}}),
        "spec.strategy.hat.codec.zzz",
        "unknown field, known here: prompt, exactTailTokens, decode",
    ),
]
