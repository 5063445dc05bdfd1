"""From a topology and what was seen of the world to the desired children: pure, the heart of the operator.

1. What no cluster can do is refused (`SpecInvalid`), and everything that runs is left as it is.
2. The facts of each model (`models`): without them only inspect Jobs are wanted, beside what runs already.
3. With `tls.mode: CertManager` the tiers wait for their first certificates.
4. Facts and spec resolve to role configurations, as the local runner does it; they become pods, Services, policies.
5. A pool in another cluster is planned once the cloud has an address that it can reach.
The plan is complete when all of it could be planned; only then is anything deleted for not being in it. A pool that
awaits an address leaves its own cluster's part of the plan incomplete, and no other.
"""

from __future__ import annotations

import dataclasses
import datetime
import ipaddress
import urllib.parse

from milliner.contract import addresses, errors, kinds, names, plan, topology
from milliner_operator import acceptance, models, tiers, tls
from milliner_operator import plan as plans
from milliner_operator.children import common, plain
from milliner_operator.conditions import Condition, Reason, Type
from milliner_operator.context import Context
from milliner_operator.observed import ClusterRef, Manifest, World

CLUSTERS_NAME = "clusters"  # suffix of the ConfigMap that lists other clusters
_NO_CLOUD = Condition(
    Type.CLOUD_READY, True, Reason.NO_CLOUD_NEEDED, "devices answer with models of their own: there is no cloud tier"
)


def plan_topology(
    wanted: topology.InferenceTopology, *, scope: common.Scope, world: World, now: datetime.datetime
) -> plans.Plan:
    """The plan; problems of the spec are in its conditions, never raised."""
    found = _planned(wanted, scope=scope, world=world, now=now)
    if tiers.runs_cloud(wanted):
        return found
    if (external := tiers.external(wanted)) is not None:
        return dataclasses.replace(found, cloud_pods=False, external=True, endpoint=external.url)
    return dataclasses.replace(found, cloud_pods=False, conditions=(*found.conditions, _NO_CLOUD))


def _planned(
    wanted: topology.InferenceTopology, *, scope: common.Scope, world: World, now: datetime.datetime
) -> plans.Plan:
    try:
        _check_cluster(wanted)
        found = models.look(wanted, scope=scope, world=world, now=now)
    except errors.SpecInvalid as error:
        return refusal(error, wanted)
    shared = [*found.children, *_clusters(wanted, scope, world)]
    certified = tls.plan(wanted, scope=scope, world=world, now=now)
    before = (*_accepted(certified), found.ready)
    without_tiers = plans.Plan(
        local=tuple(shared), conditions=before, unwanted=found.unwanted, roles=_roles(wanted), facts=found.inspected
    )
    if found.inspected is None:
        return without_tiers
    if (mismatch := found.mismatch()) is not None:
        return dataclasses.replace(without_tiers, conditions=(*_accepted(certified), mismatch))
    try:
        resolved = found.resolved()
    except errors.SpecInvalid as error:
        refused = refusal(error).conditions
        return dataclasses.replace(without_tiers, conditions=(*refused, *before[1:]))
    shared += certified.children
    unwanted = (*found.unwanted, *certified.unwanted)
    if certified.awaited:
        return dataclasses.replace(without_tiers, local=tuple(shared), unwanted=unwanted)
    context = Context(
        wanted=wanted,
        resolved=resolved,
        scope=scope,
        model=found.model,
        pool_models=found.of_pools,
        drafter=found.drafter,
        certified=certified,
    )
    accepted = acceptance.config_map(scope, wanted=wanted, found=found.kept())
    planned = _tiers_plan(context, shared=[*shared, accepted], world=world, conditions=before)
    return dataclasses.replace(planned, unwanted=unwanted, facts=found.inspected)


def refusal(error: errors.SpecInvalid, wanted: topology.InferenceTopology | None = None) -> plans.Plan:
    """The plan of a spec that is refused: what runs is left alone."""
    message = "; ".join(problem.message for problem in error.problems)
    return plans.Plan(
        conditions=(Condition(Type.SPEC_VALID, False, Reason.SPEC_INVALID, message),),
        roles=_roles(wanted) if wanted is not None else (),
    )


def _tiers_plan(
    context: Context, *, shared: list[Manifest], world: World, conditions: tuple[Condition, ...]
) -> plans.Plan:
    local, roles = [*shared], list[plans.RolePlan]()
    has_cloud, resolved = tiers.runs_cloud(context.wanted), context.resolved
    for stage in tiers.stages(context.wanted):
        live = world.get("Deployment", names.cloud_name(context.wanted.name, stage=stage))
        children, role = tiers.cloud_children(context, stage=stage, live=live)
        local += children
        roles.append(role)
    remote: dict[ClusterRef, list[Manifest]] = {each: [] for each in world.clusters}
    inside = f"{tiers.service_host(context.wanted)}:{common.GRPC_PORT}"
    for pool in context.wanted.spec.device_pools:
        endpoints: tuple[str, ...] = (f"dns:{inside}",) if has_cloud else ()
        ports: tuple[int, ...] = ()
        if pool.cluster_secret_ref is not None and has_cloud:
            endpoints, ports = external_endpoints(context.wanted, world)
            if not endpoints:
                roles.append(_awaiting(tiers.pool_role(context.wanted, pool), context.wanted))
                continue
        children, role = tiers.pool_children(context, pool, endpoints=endpoints, cloud_ports=ports)
        roles.append(role)
        if role.cluster is None:
            local += children
        else:
            there = remote.setdefault(role.cluster, [])
            there += children if there else [*_remote_tls(context), *children]
    return plans.Plan(
        local=tuple(local),
        remote={cluster: tuple(manifests) for cluster, manifests in remote.items()},
        roles=tuple(roles),
        conditions=conditions,
        complete=True,
        split_layer=resolved.split.split_layer if isinstance(resolved, plan.Resolved) else None,
        endpoint=inside if has_cloud else "",
    )


def external_endpoints(wanted: topology.InferenceTopology, world: World) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """host:port of the cloud tier as other clusters reach it, and the ports; empty until it has an address."""
    service = world.get("Service", tiers.external_name(wanted.name)) or {}
    if wanted.spec.cloud.service.type is kinds.ServiceType.LOAD_BALANCER:
        found = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
        hosts = [each.get("ip") or each.get("hostname") for each in found]
        return tuple(f"dns:{addresses.join(host, common.GRPC_PORT)}" for host in hosts if host), (common.GRPC_PORT,)
    ports = tuple(each["nodePort"] for each in (service.get("spec") or {}).get("ports") or [] if each.get("nodePort"))
    return tuple(f"dns:{addresses.join(host, port)}" for host in world.node_addresses for port in ports), ports


def _awaiting(role: plans.RolePlan, wanted: topology.InferenceTopology) -> plans.RolePlan:
    message = f"pool {role.pool}: Service {tiers.external_name(wanted.name)} has no address yet"
    return dataclasses.replace(role, blocked=Condition(Type.DEVICES_READY, False, Reason.AWAITING_ADDRESS, message))


def _check_cluster(wanted: topology.InferenceTopology) -> None:
    """What can be said before the model is known; raises `SpecInvalid`."""
    spec, problems = wanted.spec, []
    if spec.cloud.service.type is kinds.ServiceType.CLUSTER_IP and tiers.runs_cloud(wanted):
        for index, pool in enumerate(spec.device_pools):
            if pool.cluster_secret_ref is not None:
                message = (
                    f"cloud.service.type is ClusterIP but devicePools[{index}] lives in another cluster: "
                    "use LoadBalancer or NodePort"
                )
                problems.append(errors.Problem("spec.cloud.service.type", message))
                break
    external = tiers.external(wanted)
    if external is not None and _is_loopback(external.url):
        message = (
            f"cloud.engine.external.url is {external.url}, which is each pod itself: name the engine's Service or an "
            "address of its host"
        )
        problems.append(errors.Problem("spec.cloud.engine.external.url", message))
    if problems:
        raise errors.SpecInvalid(problems)


def _is_loopback(url: str) -> bool:
    host = urllib.parse.urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _accepted(certified: plans.Tls) -> tuple[Condition, ...]:
    found = (Condition(Type.SPEC_VALID, True, Reason.SPEC_ACCEPTED),)
    return found if certified.ready is None else (*found, certified.ready)


def _remote_tls(context: Context) -> list[Manifest]:
    if context.certified.device is None:
        return []
    scope = dataclasses.replace(context.scope, remote=True)
    name = tiers.tls_names(context.wanted.name)[2]
    return [plain.tls_secret(scope, name, data=context.certified.device)]


def _clusters(wanted: topology.InferenceTopology, scope: common.Scope, world: World) -> list[Manifest]:
    """The list of other clusters with children, kept until nothing is left there."""
    wanted_refs = {each.cluster for each in _roles(wanted) if each.cluster is not None}
    left = {cluster for cluster, seen in world.clusters.items() if seen.objects or (seen.error and not seen.given_up)}
    listed = sorted((each.secret, each.key) for each in wanted_refs | left)
    name = names.child_name(wanted.name, CLUSTERS_NAME)
    return [plain.clusters_map(scope, name, clusters=listed)] if listed else []


def _roles(wanted: topology.InferenceTopology) -> tuple[plans.RolePlan, ...]:
    """The workloads by name alone, so that the status goes on telling of pods that run."""
    stages = (tiers.cloud_role(wanted, stage) for stage in tiers.stages(wanted))
    return (*stages, *(tiers.pool_role(wanted, pool) for pool in wanted.spec.device_pools))
