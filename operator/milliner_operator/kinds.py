"""The kinds of object that the operator reads or writes, with their paths at the API server; one table for all."""

from __future__ import annotations

import dataclasses

from milliner.contract import names


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """A namespaced kind: `group` is empty for the core API."""

    kind: str
    group: str
    version: str
    plural: str

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str, name: str = "", *, subresource: str = "") -> str:
        """Path of one object, or of the collection when `name` is empty; of all namespaces' when that is too."""
        root = f"/apis/{self.api_version}" if self.group else f"/api/{self.version}"
        within = f"namespaces/{namespace}" if namespace else ""
        return "/".join(part for part in (root, within, self.plural, name, subresource) if part)


TOPOLOGY = Kind(names.KIND, names.GROUP, names.VERSION, names.PLURAL)
POD = Kind("Pod", "", "v1", "pods")
EVENT = Kind("Event", "", "v1", "events")

SERVICE_ACCOUNT = Kind("ServiceAccount", "", "v1", "serviceaccounts")
SECRET = Kind("Secret", "", "v1", "secrets")
CONFIG_MAP = Kind("ConfigMap", "", "v1", "configmaps")
SERVICE = Kind("Service", "", "v1", "services")
NETWORK_POLICY = Kind("NetworkPolicy", "networking.k8s.io", "v1", "networkpolicies")
DISRUPTION_BUDGET = Kind("PodDisruptionBudget", "policy", "v1", "poddisruptionbudgets")
JOB = Kind("Job", "batch", "v1", "jobs")
DEPLOYMENT = Kind("Deployment", "apps", "v1", "deployments")
DAEMON_SET = Kind("DaemonSet", "apps", "v1", "daemonsets")
AUTOSCALER = Kind("HorizontalPodAutoscaler", "autoscaling", "v2", "horizontalpodautoscalers")
CERTIFICATE = Kind("Certificate", "cert-manager.io", "v1", "certificates")  # a child too, but nothing watches it

# In the order of applying: what pods mount and obey exists before the pods do.
CHILDREN = (
    SERVICE_ACCOUNT,
    SECRET,
    CONFIG_MAP,
    NETWORK_POLICY,
    SERVICE,
    DISRUPTION_BUDGET,
    JOB,
    DEPLOYMENT,
    DAEMON_SET,
    AUTOSCALER,
)
# What a device pool in another cluster is made of.
REMOTE_CHILDREN = (SERVICE_ACCOUNT, SECRET, CONFIG_MAP, NETWORK_POLICY, SERVICE, DEPLOYMENT, DAEMON_SET)
BY_KIND = {each.kind: each for each in (*CHILDREN, CERTIFICATE, TOPOLOGY, POD, EVENT)}
