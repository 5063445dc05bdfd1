"""A network that lets nothing through between the tiers: Ready is not True, the cause is named, and it comes back.

Policies only ever allow, so the operator's own is replaced by one that allows less; an admission policy keeps the
operator from putting it right meanwhile.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from tests.chart import charts, kubectl
from tests.e2e import installation, topologies

OPERATOR = f"system:serviceaccount:{charts.NAMESPACE}:{installation.RELEASE}"
HELD_S = 30.0  # until every API server follows a new admission policy
HEALTH = 9090
MESSAGE = "held by a test"


def admission(namespace: str) -> list[charts.Document]:
    """Refuses the operator's writes of NetworkPolicies in one namespace."""
    group = "admissionregistration.k8s.io"
    rule = {
        "apiGroups": ["networking.k8s.io"],
        "apiVersions": ["v1"],
        "operations": ["CREATE", "UPDATE"],
        "resources": ["networkpolicies"],
    }
    labels = {"kubernetes.io/metadata.name": namespace}
    policy = {
        "matchConstraints": {"resourceRules": [rule]},
        "validations": [{"expression": f"request.userInfo.username != '{OPERATOR}'", "message": MESSAGE}],
    }
    binding = {
        "policyName": namespace,
        "validationActions": ["Deny"],
        "matchResources": {"namespaceSelector": {"matchLabels": labels}},
    }
    metadata = {"name": namespace}
    return [
        {"apiVersion": f"{group}/v1", "kind": "ValidatingAdmissionPolicy", "metadata": metadata, "spec": policy},
        {
            "apiVersion": f"{group}/v1",
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": metadata,
            "spec": binding,
        },
    ]


@contextlib.contextmanager
def operator_held(namespace: str) -> Iterator[None]:
    """The operator cannot change NetworkPolicies meanwhile."""
    kubectl.apply(admission(namespace))
    try:
        attempt = ("label", "networkpolicy", "chat-cloud", "held=yes", "--namespace", namespace)
        deadline = time.monotonic() + HELD_S
        while True:
            try:
                kubectl.run(*attempt, f"--as={OPERATOR}", "--dry-run=server", "--overwrite")
            except kubectl.Refused as refused:
                if MESSAGE in str(refused):
                    break
                raise
            assert time.monotonic() < deadline, "the admission policy is not followed"
            time.sleep(0.5)
        yield
    finally:
        kubectl.run("delete", "validatingadmissionpolicybinding,validatingadmissionpolicy", namespace)


def test_a_blocked_network_is_never_ready(chat: charts.Document, watched: None) -> None:
    namespace = chat["metadata"]["namespace"]
    closed = f'{{"spec": {{"ingress": [{{"ports": [{{"port": {HEALTH}}}]}}]}}}}'
    with operator_held(namespace):
        kubectl.run("patch", "networkpolicy", "chat-cloud", "--namespace", namespace, "--type=merge", "--patch", closed)
        (cloud,) = topologies.names("chat", "cloud", namespace=namespace)
        kubectl.run("delete", "pod", cloud, "--namespace", namespace)  # connections that stand may outlive a policy
        topologies.wait_condition("chat", "CloudReady", "False", "ReconcileError", namespace=namespace)
        topologies.wait_condition("chat", "StreamReady", "False", "StreamProbeFailed", namespace=namespace)
        ready = topologies.condition("chat", "Ready", namespace=namespace)
        assert (ready["status"], ready["reason"]) == ("False", "ReconcileError")
        assert "NetworkPolicy chat-cloud" in ready["message"] and MESSAGE in ready["message"]
    topologies.wait_ready("chat", namespace=namespace)
    with topologies.device("chat", namespace=namespace) as client:
        assert len(topologies.completion(client, "def main(argv):\n", max_tokens=4)) == 4
