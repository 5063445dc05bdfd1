"""What the planner says: children by cluster, roles to watch, and what is already known to be wrong. Values only."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from milliner.contract import names
from milliner.contract.cloud import LOADING_SECONDS
from milliner.contract.facts import InspectedFacts
from milliner_operator.conditions import Condition, Type
from milliner_operator.observed import ClusterRef, Manifest, Ref


@dataclasses.dataclass(frozen=True, slots=True)
class RolePlan:
    """A workload whose state makes up the status."""

    role: str
    workload: Ref
    revision: str
    pool: str | None = None
    cluster: ClusterRef | None = None
    model_digest: str | None = None  # of a pool's own model
    progress_s: int = LOADING_SECONDS  # a pool's; without progress for as long its rollout has failed
    blocked: Condition | None = None  # why it is not planned; what runs of it is left alone


@dataclasses.dataclass(frozen=True, slots=True)
class Tls:
    """What is wanted for mutual TLS; `device` is the data of the devices' Secret, None until both tiers have theirs."""

    on: bool = False
    children: tuple[Manifest, ...] = ()
    unwanted: tuple[Ref, ...] = ()
    ready: Condition | None = None
    device: Mapping[str, str] | None = None

    @property
    def awaited(self) -> bool:
        """Whether pods could not start for want of a certificate."""
        return self.on and self.device is None


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """The desired world. What is ours and not `wanted` is deleted only if the plan is `complete`; `unwanted` always."""

    local: tuple[Manifest, ...] = ()
    remote: Mapping[ClusterRef, tuple[Manifest, ...]] = dataclasses.field(default_factory=dict)
    roles: tuple[RolePlan, ...] = ()
    conditions: tuple[Condition, ...] = ()
    unwanted: tuple[Ref, ...] = ()
    complete: bool = False
    facts: InspectedFacts | None = None
    split_layer: int | None = None
    cloud_pods: bool = True  # whether there is a cloud tier of pods
    external: bool = False  # whether somebody else's server takes its place
    endpoint: str = ""

    @property
    def awaiting(self) -> frozenset[str]:
        """Pools that are not planned yet: what runs of them is left alone, wherever it is."""
        return frozenset(each.pool for each in self.roles if each.blocked is not None and each.pool is not None)

    def is_complete(self, cluster: ClusterRef, objects: Iterable[Manifest]) -> bool:
        """Whether all that is to be in another cluster could be planned, where these `objects` are: what is there of
        a pool that awaits something needs what pools share."""
        waits = any(each.blocked is not None for each in self.roles if each.cluster == cluster)
        pools = {(each["metadata"].get("labels") or {}).get(names.LABEL_POOL) for each in objects}
        return self.complete and not waits and not pools & self.awaiting

    def condition(self, kind: Type) -> Condition | None:
        return next((each for each in self.conditions if each.type is kind), None)

    @property
    def planned(self) -> bool:
        """Whether the tiers could be planned, if not all of them: a workload that is only named has no revision."""
        return any(each.revision for each in self.roles)

    @property
    def cloud(self) -> RolePlan | None:
        """The workload that devices speak to: the first pipeline stage."""
        return next((each for each in self.roles if each.role == names.ROLE_CLOUD), None)

    @property
    def stages(self) -> tuple[RolePlan, ...]:
        """The workloads of the cloud tier, stage by stage."""
        return tuple(each for each in self.roles if each.pool is None)

    @property
    def pools(self) -> tuple[RolePlan, ...]:
        return tuple(each for each in self.roles if each.role == names.ROLE_DEVICE)
