"""How far a Deployment or DaemonSet is: desired, updated and ready pods in the same words for both. Pure."""

from __future__ import annotations

import dataclasses
import datetime

from milliner.contract import names
from milliner_operator import observed
from milliner_operator.observed import Manifest, condition


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """Counts of a workload's pods; `revision` is that of its template."""

    desired: int = 0
    updated: int = 0
    ready: int = 0
    total: int = 0
    revision: str = ""
    observed: bool = False  # whether its controller has seen the template
    rolled_out: bool = False  # whether its last rollout has ended well, whatever became of the pods since
    deadline_exceeded: bool = False
    refused: str = ""  # why its controller cannot create pods

    @property
    def complete(self) -> bool:
        """Whether exactly the desired pods exist, all of them of the template's revision."""
        return self.observed and self.updated == self.desired == self.total

    @property
    def only_scales(self) -> bool:
        """Whether pods come or go, but none of an older revision is there, as far as its controller has looked."""
        return not self.complete and (not self.observed or self.updated == self.total)

    @property
    def all_ready(self) -> bool:
        return self.complete and self.ready == self.desired


def serves_since(workload: Manifest | None) -> datetime.datetime | None:
    """Since when a Deployment has had enough ready pods, at least one; None where it has not."""
    available = condition(workload, "Available")
    if available.get("status") != "True" or progress(workload).ready == 0:
        return None
    assert workload is not None
    since = observed.not_before_creation(workload, available["lastTransitionTime"])
    return datetime.datetime.fromisoformat(since)


def revision(workload: Manifest) -> str:
    """The revision of a workload's template; empty where it has none."""
    labels = workload["spec"]["template"]["metadata"].get("labels") or {}
    return str(labels.get(names.LABEL_REVISION, ""))


def progress(workload: Manifest | None) -> Progress:
    """The counts in a workload's status; all zero where it is not there."""
    if workload is None:
        return Progress()
    status, spec = workload.get("status") or {}, workload["spec"]
    daemon = workload["kind"] == "DaemonSet"
    keys = (
        ("desiredNumberScheduled", "updatedNumberScheduled", "numberReady", "currentNumberScheduled")
        if daemon
        else ("", "updatedReplicas", "readyReplicas", "replicas")
    )
    failure = condition(workload, "ReplicaFailure")
    progressing = condition(workload, "Progressing")
    found = Progress(
        desired=int(status.get(keys[0]) or 0) if daemon else int(spec.get("replicas", 1)),
        updated=int(status.get(keys[1]) or 0),
        ready=int(status.get(keys[2]) or 0),
        total=int(status.get(keys[3]) or 0),
        revision=revision(workload),
        observed=int(status.get("observedGeneration") or 0) >= int(workload["metadata"].get("generation") or 1),
        deadline_exceeded=progressing.get("reason") == "ProgressDeadlineExceeded",
        refused=str(failure.get("message") or "") if failure.get("status") == "True" else "",
    )
    if daemon:
        return dataclasses.replace(found, rolled_out=found.all_ready)
    ended = progressing.get("reason") == "NewReplicaSetAvailable"
    return dataclasses.replace(found, rolled_out=found.observed and found.updated == found.total and ended)
