"""Condition types and reasons of a topology's status, with what to do about each; pure.

`docs/operations.md` shows the same table, and a test keeps them equal. `merged` is the one place where
`lastTransitionTime` is decided.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Mapping
from typing import Any


class Type(enum.StrEnum):
    """Conditions, the leaves in the order in which `Ready` looks for the first that fails."""

    READY = "Ready"
    SPEC_VALID = "SpecValid"
    MODEL_READY = "ModelReady"
    TLS_READY = "TLSReady"
    CLOUD_READY = "CloudReady"
    DEVICES_READY = "DevicesReady"
    STREAM_READY = "StreamReady"
    SCALING_READY = "ScalingReady"
    PROGRESSING = "Progressing"
    DEGRADED = "Degraded"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    CLEANUP_PENDING = "CleanupPending"


LEAVES = (
    Type.SPEC_VALID,
    Type.MODEL_READY,
    Type.TLS_READY,
    Type.CLOUD_READY,
    Type.DEVICES_READY,
    Type.STREAM_READY,
)  # ScalingReady is not among them: without its metric the cloud serves all the same


class Reason(enum.StrEnum):
    """Why a condition is as it is."""

    ALL_ROLES_READY = "AllRolesReady"
    SPEC_ACCEPTED = "SpecAccepted"
    MODEL_AGREED = "ModelAgreed"
    CERTIFICATES_VALID = "CertificatesValid"
    ALL_PODS_READY = "AllPodsReady"
    NO_CLOUD_NEEDED = "NoCloudNeeded"
    EXTERNAL_ENGINE_ANSWERS = "ExternalEngineAnswers"
    STREAM_PROBE_SUCCEEDED = "StreamProbeSucceeded"
    METRIC_AVAILABLE = "MetricAvailable"
    ROLLOUT_COMPLETE = "RolloutComplete"
    FULLY_SERVING = "FullyServing"
    RECONCILING = "Reconciling"
    INSPECTING = "Inspecting"
    AWAITING_ADDRESS = "AwaitingAddress"
    NEW_REVISION = "NewRevision"
    UPDATING = "Updating"
    PODS_NOT_READY = "PodsNotReady"
    PARTLY_SERVING = "PartlyServing"
    SCALED_TO_ZERO = "ScaledToZero"
    SPEC_INVALID = "SpecInvalid"
    MODEL_NOT_FOUND = "ModelNotFound"
    MODEL_DIGEST_MISMATCH = "ModelDigestMismatch"
    INSPECTION_FAILED = "InspectionFailed"
    INSUFFICIENT_CAPACITY = "InsufficientCapacity"
    UNSCHEDULABLE = "Unschedulable"
    NO_MATCHING_NODES = "NoMatchingNodes"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    CRASH_LOOP = "CrashLoop"
    VOLUME_NOT_MOUNTED = "VolumeNotMounted"
    POD_REFUSED = "PodRefused"
    DEVICE_UNREACHABLE = "DeviceUnreachable"
    STREAM_PROBE_FAILED = "StreamProbeFailed"
    EXTERNAL_ENGINE_UNREACHABLE = "ExternalEngineUnreachable"
    EXTERNAL_MODEL_MISMATCH = "ExternalModelMismatch"
    CERTIFICATE_NOT_READY = "CertificateNotReady"
    CHILD_NOT_OWNED = "ChildNotOwned"
    METRIC_MISSING = "MetricMissing"
    CLEANUP_PENDING = "CleanupPending"
    PROGRESS_DEADLINE_EXCEEDED = "ProgressDeadlineExceeded"
    RECONCILE_ERROR = "ReconcileError"


@dataclasses.dataclass(frozen=True, slots=True)
class Guide:
    """A row of the table: what a reason means and what to do."""

    meaning: str
    remedy: str


_NOTHING = "Nothing."
_WAIT = "Wait; if it lasts, see the message."
GUIDES: Mapping[Reason, Guide] = {
    Reason.ALL_ROLES_READY: Guide("Every pod of the current revision serves and a round trip succeeded.", _NOTHING),
    Reason.SPEC_ACCEPTED: Guide("The spec holds against schema, rules and model.", _NOTHING),
    Reason.MODEL_AGREED: Guide("The model was found; status.model.digest is what both tiers must have.", _NOTHING),
    Reason.CERTIFICATES_VALID: Guide("CA and certificates of both tiers are valid.", _NOTHING),
    Reason.ALL_PODS_READY: Guide("All pods of the role are ready, in the current revision.", _NOTHING),
    Reason.NO_CLOUD_NEEDED: Guide("With DeviceOnly there is no cloud tier to be ready.", _NOTHING),
    Reason.EXTERNAL_ENGINE_ANSWERS: Guide("The server in cloud.engine.external gave a device tokens lately.", _NOTHING),
    Reason.STREAM_PROBE_SUCCEEDED: Guide(
        "A device of each pool made a round trip through the cloud lately; with DeviceOnly, answered a request.",
        _NOTHING,
    ),
    Reason.METRIC_AVAILABLE: Guide("The autoscaler reads its metric.", _NOTHING),
    Reason.ROLLOUT_COMPLETE: Guide("All pods run the current revision.", _NOTHING),
    Reason.FULLY_SERVING: Guide("Nothing that serves is partly away.", _NOTHING),
    Reason.RECONCILING: Guide("The operator has seen this generation and is at work.", _WAIT),
    Reason.INSPECTING: Guide(
        "A Job reads the model's configuration and digest.", "Wait; `kubectl describe job` shows a Job that hangs."
    ),
    Reason.AWAITING_ADDRESS: Guide(
        "A pool in another cluster needs the address of the cloud's external Service, which has none yet.",
        "Check that the cluster hands out LoadBalancer addresses, or set cloud.service.type: NodePort.",
    ),
    Reason.NEW_REVISION: Guide("A new revision is being rolled out.", _WAIT),
    Reason.UPDATING: Guide("Pods of an older revision still serve beside new ones.", _WAIT),
    Reason.PODS_NOT_READY: Guide(
        "Some pods are not ready and none of the causes below is seen.", "Read the logs of the pods named."
    ),
    Reason.PARTLY_SERVING: Guide(
        "Requests are served while some pods are away.", "See CloudReady and DevicesReady for which and why."
    ),
    Reason.SCALED_TO_ZERO: Guide(
        "cloud.replicas is 0: nothing runs in the cloud, as it was asked for; devices answer 503, with PDDevice alone.",
        "Scale it up: `kubectl scale itopo NAME --replicas=1`.",
    ),
    Reason.SPEC_INVALID: Guide(
        "The spec breaks a rule; running pods are left as they are.", "Correct the field that the message names."
    ),
    Reason.MODEL_NOT_FOUND: Guide(
        "The source of model or drafter cannot be read.",
        "Correct model.source or its credentials; it is tried again by itself.",
    ),
    Reason.MODEL_DIGEST_MISMATCH: Guide(
        "The files' digest is not the pinned one, or the drafter was trained for another model.",
        "Correct source or model.digest, or train the drafter for this model.",
    ),
    Reason.INSPECTION_FAILED: Guide(
        "The inspect Job crashed or answers in a form that this operator does not know.",
        "Read the Job's log; check that the runtime image (chart value runtimeImage) is of the operator's version.",
    ),
    Reason.INSUFFICIENT_CAPACITY: Guide(
        "No node has enough of what the pods ask for.", "Add nodes, or lower requests or accelerator.count."
    ),
    Reason.UNSCHEDULABLE: Guide(
        "No node matches the pods' selectors, tolerations or volumes, or has their host port free.",
        "Correct nodeSelector, affinity, tolerations or api.port, or create the claim that the message names.",
    ),
    Reason.NO_MATCHING_NODES: Guide(
        "A pool without replicas matches no node.",
        "Label the device nodes, or correct the pool's nodeSelector, affinity or tolerations.",
    ),
    Reason.IMAGE_PULL_FAILED: Guide(
        "A node cannot pull the image.",
        "Check the chart's values runtimeImage and imagePullSecrets (MILLINER_RUNTIME_IMAGE, "
        "MILLINER_IMAGE_PULL_SECRETS), and that nodes reach the registry.",
    ),
    Reason.CRASH_LOOP: Guide("A container ends again and again.", "Read `kubectl logs --previous` of the pod named."),
    Reason.VOLUME_NOT_MOUNTED: Guide(
        "A Secret or a volume that a pod mounts is missing, so that its container cannot be created.",
        "Create what the message names: credentialsSecretRef, keysSecretRef, a TLS Secret or a claim.",
    ),
    Reason.POD_REFUSED: Guide(
        "The API server refuses the pods (Pod Security, quota or another admission rule).",
        "Follow the message; HostPort needs a namespace whose Pod Security level allows it.",
    ),
    Reason.DEVICE_UNREACHABLE: Guide(
        "A device's node or a pool's cluster does not answer; its pods are left as they are.",
        "Bring node or cluster back, or correct the kubeconfig in clusterSecretRef.",
    ),
    Reason.STREAM_PROBE_FAILED: Guide(
        "No device of a pool has made a round trip through the cloud in the last minute (DeviceOnly: has answered).",
        "Read the message: network policy, certificates or the cloud are the usual causes.",
    ),
    Reason.EXTERNAL_ENGINE_UNREACHABLE: Guide(
        "The server in cloud.engine.external gives the devices no tokens: it cannot be reached, refuses the key, or "
        "takes no token ids.",
        "Read the message; check url, apiKeySecretRef and network policies on the server's side.",
    ),
    Reason.EXTERNAL_MODEL_MISMATCH: Guide(
        "The server in cloud.engine.external serves another model, or one with another tokenizer.",
        "Correct cloud.engine.external.model, or name in model.source what the server has.",
    ),
    Reason.CERTIFICATE_NOT_READY: Guide(
        "Certificates are missing, expired, not issued by cert-manager, or not yet with the pods.",
        "Wait; if it lasts, see the message, and with cert-manager `kubectl describe certificate`.",
    ),
    Reason.CHILD_NOT_OWNED: Guide(
        "An object with the name of a child belongs to somebody else and is not touched.",
        "Delete or rename that object, or rename the topology.",
    ),
    Reason.METRIC_MISSING: Guide(
        "The autoscaler cannot read its metric and scales nothing.",
        "Install metrics-server, or the adapter that serves the custom metric.",
    ),
    Reason.CLEANUP_PENDING: Guide(
        "What was made in a cluster that does not answer is not deleted yet; the topology's own deletion waits for it.",
        "Bring that cluster back, or delete the Secret with its kubeconfig to give up what is there.",
    ),
    Reason.PROGRESS_DEADLINE_EXCEEDED: Guide(
        "A rollout made no progress within cloud.rollout.progressDeadlineSeconds, that of devices within their pool's.",
        "See CloudReady and DevicesReady for the cause; correct or revert the spec.",
    ),
    Reason.RECONCILE_ERROR: Guide(
        "The API server refused or failed a call of the operator.", "Read the message; it is tried again with backoff."
    ),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Condition:
    """One condition before its times are known; `status` None is Unknown."""

    type: Type
    status: bool | None
    reason: Reason
    message: str = ""

    @property
    def status_text(self) -> str:
        return "Unknown" if self.status is None else str(self.status)


def merged(
    found: Iterable[Condition], *, before: Iterable[Mapping[str, Any]], generation: int, now: str
) -> list[dict[str, Any]]:
    """The condition documents; `lastTransitionTime` (RFC 3339) moves only where the status changed."""
    earlier = {each.get("type"): each for each in before}
    documents = []
    for each in found:
        old = earlier.get(each.type.value, {})
        kept = old.get("lastTransitionTime") if old.get("status") == each.status_text else None
        documents.append(
            {
                "type": each.type.value,
                "status": each.status_text,
                "reason": each.reason.value,
                "message": each.message,
                "observedGeneration": generation,
                "lastTransitionTime": kept or now,
            }
        )
    return documents


def markdown_table() -> str:
    """The table of docs/operations.md."""
    rows = [f"| `{reason.value}` | {guide.meaning} | {guide.remedy} |" for reason, guide in GUIDES.items()]
    return "\n".join(["| reason | what it means | what to do |", "|---|---|---|", *rows]) + "\n"
