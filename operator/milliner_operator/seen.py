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
        stuck = role.workload in self.sightings.stuck
        return dataclasses.replace(found, deadline_exceeded=found.deadline_exceeded or stuck)
