"""What the planner decides from, read from the API server: children, the inspect Job's answer, certificates.

The number of calls is that of the kinds of children, whatever a topology holds.
"""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Mapping, Sequence

from milliner.contract import devices, names, topology
from milliner.contract import kinds as spec_kinds
from milliner_operator import (
    cert_manager,
    certificates,
    errors,
    executor,
    inspection,
    kinds,
    mounts,
    observed,
    planner,
    pods,
    refusals,
    tiers,
)
from milliner_operator.api import Api
from milliner_operator.children import common
from milliner_operator.conditions import Reason
from milliner_operator.observed import Answer, ClusterRef, Manifest, Ref, RemoteCluster, Trouble, World
from milliner_operator.remote import listed

_KUBECONFIG_KEY = devices.ClusterSecretRef.model_fields["key"].default
_FEW = 5  # pods of a Job or nodes of the cloud tier that are looked at


async def children(client: Api, document: Manifest) -> dict[Ref, Manifest]:
    """All children of a topology in its own cluster, by label."""
    namespace, name = document["metadata"]["namespace"], document["metadata"]["name"]
    labels = common.selector(name)
    lists = await asyncio.gather(*(client.list(kind, namespace, labels=labels) for kind in kinds.CHILDREN))
    found = observed.by_ref([item for items in lists for item in items])
    mode = ((document.get("spec") or {}).get("tls") or {}).get("mode") or spec_kinds.TlsMode.MANAGED
    if cert_manager.are_possible(mode, found, topology_name=name):
        found |= observed.by_ref((await _certificates(client, namespace, name))[0])
    return found


def named_clusters(wanted: topology.InferenceTopology) -> set[ClusterRef]:
    """The other clusters that pools are to be in."""
    pools = (tiers.pool_role(wanted, pool).cluster for pool in wanted.spec.device_pools)
    return {each for each in pools if each is not None}


def clusters_in(document: Manifest) -> set[ClusterRef]:
    """The same of a document that need not be valid any more."""
    pools = (document.get("spec") or {}).get("devicePools") or ()
    refs = (each.get("clusterSecretRef") or {} for each in pools)
    return {ClusterRef(each["name"], each.get("key") or _KUBECONFIG_KEY) for each in refs if each.get("name")}


def recorded_clusters(topology_name: str, objects: Mapping[Ref, Manifest]) -> list[ClusterRef]:
    """The other clusters that may hold children, as the topology's ConfigMap lists them."""
    return listed(objects, name=clusters_ref(topology_name)[1])


def clusters_ref(topology_name: str) -> Ref:
    """That ConfigMap."""
    return kinds.CONFIG_MAP.kind, names.child_name(topology_name, planner.CLUSTERS_NAME)


async def look(
    client: Api,
    wanted: topology.InferenceTopology,
    *,
    scope: common.Scope,
    objects: Mapping[Ref, Manifest],
    clusters: Mapping[ClusterRef, RemoteCluster],
    now: datetime.datetime,
) -> World:
    """The world of a topology; certificates that are missing or due are generated here, and written by the executor."""
    answers, troubles = await _inspect_answers(client, wanted, scope, objects)
    addresses: tuple[str, ...] = ()
    if wanted.spec.cloud.service.type is spec_kinds.ServiceType.NODE_PORT:
        labels = common.role_selector(scope.topology, role=names.ROLE_CLOUD)
        found = await client.list(kinds.POD, scope.namespace, labels=labels, limit=_FEW)
        hosts = {(each.get("status") or {}).get("hostIP") for each in found}
        addresses = tuple(sorted(host for host in hosts if host))
    return World(
        objects=objects,
        certificates_error=await _certificates_error(client, wanted, scope, objects),
        identities=await _identities(wanted, scope, objects, clusters=clusters, now=now),
        inspect_answers=answers,
        inspect_troubles=troubles,
        node_addresses=addresses,
        clusters=clusters,
    )


async def _certificates(client: Api, namespace: str, name: str) -> tuple[Sequence[Manifest], str]:
    """cert-manager's Certificates of a topology, and why the API server does not tell of any."""
    try:
        return await client.list(kinds.CERTIFICATE, namespace, labels=common.selector(name)), ""
    except errors.NotFound:
        return (), cert_manager.UNKNOWN_KIND
    except errors.Forbidden as error:
        return (), f"Certificates of cert-manager cannot be listed: {error.message}"


async def _certificates_error(
    client: Api, wanted: topology.InferenceTopology, scope: common.Scope, objects: Mapping[Ref, Manifest]
) -> str:
    """Why there can be no Certificates, asked only where they are wanted and none is there."""
    there = any(kind == kinds.CERTIFICATE.kind for kind, _ in objects)
    if there or wanted.spec.tls.mode is not spec_kinds.TlsMode.CERT_MANAGER or not tiers.runs_cloud(wanted):
        return ""
    return (await _certificates(client, scope.namespace, scope.topology))[1]


async def _identities(
    wanted: topology.InferenceTopology,
    scope: common.Scope,
    objects: Mapping[Ref, Manifest],
    *,
    clusters: Mapping[ClusterRef, RemoteCluster],
    now: datetime.datetime,
) -> certificates.Identities | None:
    if wanted.spec.tls.mode is not spec_kinds.TlsMode.MANAGED or not tiers.runs_cloud(wanted):
        return None
    owned = {ref: each for ref, each in objects.items() if executor.owned(each, scope.uid)}
    ca, cloud, device = (owned.get(("Secret", each)) for each in tiers.tls_names(scope.topology))
    return await asyncio.to_thread(
        certificates.ensure,
        ca=ca,
        cloud=cloud,
        device=device,
        topology=scope.topology,
        cloud_names=tiers.cloud_certificate_names(wanted),
        cloud_calls=wanted.spec.cloud.pipeline_stages > 1,
        elsewhere=_secrets_elsewhere(clusters, name=tiers.tls_names(scope.topology)[2]),
        now=now,
    )


def _secrets_elsewhere(clusters: Mapping[ClusterRef, RemoteCluster], *, name: str) -> list[Manifest | None]:
    """The devices' Secrets in other clusters, None where it is not known whether there is one."""
    known = [each for each in clusters.values() if not each.given_up]
    found = [(each.error, each.objects.get(("Secret", name))) for each in known]
    return [secret for error, secret in found if error or secret is not None]


async def _inspect_answers(
    client: Api, wanted: topology.InferenceTopology, scope: common.Scope, objects: Mapping[Ref, Manifest]
) -> tuple[dict[str, Answer], dict[str, Trouble]]:
    """What the inspect Jobs' pods say, or why they do not run, by Job."""
    answers, troubles = dict[str, Answer](), dict[str, Trouble]()
    for name in inspection.job_names(wanted, scope=scope):
        if ("Job", name) in objects:
            answer, trouble = await _inspect_answer(client, scope, name)
            answers |= {name: answer} if answer is not None else {}
            troubles |= {name: trouble} if trouble is not None else {}
    return answers, troubles


async def _inspect_answer(client: Api, scope: common.Scope, name: str) -> tuple[Answer | None, Trouble | None]:
    """The termination message of a Job's pod, or why it does not run."""
    labels = f"batch.kubernetes.io/job-name={name}"
    found = await client.list(kinds.POD, scope.namespace, labels=labels, limit=_FEW)
    for each in found:
        for container in (each.get("status") or {}).get("containerStatuses") or ():
            ended = (container.get("state") or {}).get("terminated") or {}
            if ended.get("exitCode") == 0 and ended.get("message"):
                return Answer(line=ended["message"], at=observed.not_before_creation(each, ended["finishedAt"])), None
    if not found:
        return None, await refusals.trouble(client, scope.namespace, ("Job", name))
    trouble = pods.trouble(found)
    if trouble is not None and trouble.reason is Reason.PODS_NOT_READY:
        trouble = await mounts.trouble(client, scope.namespace, found) or trouble
    return None, trouble
