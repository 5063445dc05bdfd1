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

    def unreachable(self, role: RolePlan) -> str:
        """Why nothing is known of a role in another cluster; empty where all is."""
        return "" if role.cluster is None else self.clusters.get(role.cluster, RemoteCluster()).error

    @property
    def left_behind(self) -> list[str]:
        """What is the matter with clusters that no pool is in any more and that may still hold children."""
        named = {role.cluster for role in self.plan.roles}
        return [
            each.error for ref, each in self.clusters.items() if ref not in named and each.error and not each.given_up
        ]

    @property
    def rests(self) -> bool:
        """Whether a stage of the cloud is scaled to 0 replicas."""
        stages = (progress(self.objects.get(role.workload)) for role in self.plan.stages)
        return any(each.revision and each.desired == 0 for each in stages)
