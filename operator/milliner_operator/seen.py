"""All that a status is made of, after a pass's writes. Values only."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from milliner_operator.observed import ClusterRef, Manifest, Ref, RemoteCluster, Sightings, Trouble
from milliner_operator.plan import Plan, RolePlan
from milliner_operator.workloads import Progress, progress


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """All that a status is made of, after the pass's writes."""

    topology: str
    generation: int
    plan: Plan
    objects: Mapping[Ref, Manifest]
    clusters: Mapping[ClusterRef, RemoteCluster]
    troubles: Mapping[str, Trouble]  # by role: what stood in the way of applying
    sightings: Sightings

    def progress(self, role: RolePlan) -> Progress:
        """How far a role's workload is, in whichever cluster it lives."""
        if role.cluster is None:
            found = progress(self.objects.get(role.workload))
        else:
            found = progress(self.clusters.get(role.cluster, RemoteCluster()).objects.get(role.workload))
        exceeded = found.deadline_exceeded or role.workload in self.sightings.stuck
        waits = role.pool is not None and self.rests  # devices get ready by a round trip through the cloud
        return dataclasses.replace(found, deadline_exceeded=exceeded and not waits)

    @property
    def rests(self) -> bool:
        """Whether a stage of the cloud is scaled to 0 replicas."""
        stages = (progress(self.objects.get(role.workload)) for role in self.plan.stages)
        return any(each.revision and each.desired == 0 for each in stages)
