"""The children of the two tiers, made of a resolved topology: configuration, pods, network. Pure."""

from __future__ import annotations

import dataclasses

from milliner.contract import kinds as spec_kinds
from milliner.contract import names, plan_whole, topology
from milliner.contract.cloud import ExternalEngine
from milliner.contract.devices import DevicePool
from milliner_operator import configuration, inspection, revision, sameness
from milliner_operator.children import cloud, common, device, network, plain, pod
from milliner_operator.context import Context
from milliner_operator.kinds import DAEMON_SET, DEPLOYMENT
from milliner_operator.observed import ClusterRef, Manifest
from milliner_operator.plan import RolePlan
from milliner_operator.sameness import FIELD_MANAGER


def runs_cloud(wanted: topology.InferenceTopology) -> bool:
    """Whether a topology has a cloud tier of pods."""
    return plan_whole.has_cloud(wanted) and external(wanted) is None


def external(wanted: topology.InferenceTopology) -> ExternalEngine | None:
    """The server that takes the place of cloud pods, if one does."""
    return wanted.spec.cloud.engine.external if plan_whole.has_cloud(wanted) else None


def stages(wanted: topology.InferenceTopology) -> range:
    """The pipeline stages of the cloud tier's pods."""
    return range(wanted.spec.cloud.pipeline_stages if runs_cloud(wanted) else 0)


def service_host(wanted: topology.InferenceTopology, *, stage: int = 0) -> str:
    """Name of the cloud tier, or of a pipeline stage, inside its cluster; also a name in the cloud's certificate."""
    return f"{names.cloud_name(wanted.name, stage=stage)}.{wanted.metadata.namespace}.svc"


def cloud_certificate_names(wanted: topology.InferenceTopology) -> tuple[str, ...]:
    found: list[str] = []
    for stage in stages(wanted):
        host = service_host(wanted, stage=stage)
        found += [host, f"{host}.cluster.local", names.cloud_name(wanted.name, stage=stage)]
    return tuple(found)


def external_name(topology_name: str) -> str:
    return names.child_name(topology_name, names.ROLE_CLOUD, "external")


def tls_names(topology_name: str) -> tuple[str, str, str]:
    """Names of the Secrets of CA, cloud and devices."""
    return (
        names.child_name(topology_name, "ca"),
        names.child_name(topology_name, names.ROLE_CLOUD, "tls"),
        names.child_name(topology_name, names.ROLE_DEVICE, "tls"),
    )


def cloud_role(wanted: topology.InferenceTopology, stage: int) -> RolePlan:
    """A pipeline stage's workload by name alone."""
    workload = (DEPLOYMENT.kind, names.cloud_name(wanted.name, stage=stage))
    return RolePlan(role=names.stage_role(stage), workload=workload, revision="")


def cloud_children(context: Context, *, stage: int, live: Manifest | None) -> tuple[list[Manifest], RolePlan]:
    """Children of the cloud tier's pipeline stage, and its workload; `live` is the Deployment that is there.

    Devices speak to stage 0, each stage to the next; all replicas of a stage are alike.
    """
    scope, spec = context.scope, context.wanted.spec.cloud
    planned = cloud_role(context.wanted, stage)
    name, role = planned.workload[1], planned.role
    is_last = stage == spec.pipeline_stages - 1
    behind = () if is_last else (f"dns:{service_host(context.wanted, stage=stage + 1)}:{common.GRPC_PORT}",)
    server_name = service_host(context.wanted)
    found_config = configuration.cloud(context, name=name, stage=stage, next_endpoints=behind, server_name=server_name)
    config = found_config.to_json()
    shape = pod.PodShape(
        role=role,
        runs=found_config.role,
        config_map=name,
        service_account=name,
        options=spec.pod,
        ports=cloud.ports(),
        limits=cloud.limits(spec),
        claims=inspection.claims(context.model.files),
        tls_secret=tls_names(context.wanted.name)[1] if context.certified.on else None,
        credentials=context.model.credentials if context.model.files.fetched_over_network else None,
        fetches=context.model.files.fetched_over_network,
        spread=True,
        grace_s=pod.grace_s(configuration.CLOUD_DRAIN_S),
    )
    template, found = revision.stamp(pod.template(scope, shape), config)
    workload = cloud.deployment(scope, name, role=role, cloud=spec, template=template)
    if spec.scaling is not None and live is not None and sameness.owns(live, "spec", "replicas", manager=FIELD_MANAGER):
        # letting go of the field before the autoscaler has it would set it to its default, 1
        workload["spec"]["replicas"] = live["spec"]["replicas"]
    exposed = stage == 0 and spec.service.type is not spec_kinds.ServiceType.CLUSTER_IP
    caller = names.ROLE_DEVICE if stage == 0 else names.stage_role(stage - 1)
    children = [
        plain.service_account(scope, name, role=role),
        plain.role_config_map(scope, revision.config_map_name(name, found), role=role, config=config, revision=found),
        network.headless_service(scope, name, role=role),
        network.cloud_policy(
            scope,
            name,
            role=role,
            caller=None if exposed else caller,
            callee=None if is_last else names.stage_role(stage + 1),
            sources=context.sources(context.model),
            otlp_endpoint=context.otlp_endpoint,
        ),
        cloud.disruption_budget(scope, name, role=role),
        workload,
    ]
    if exposed:
        external = external_name(context.wanted.name)
        children.append(network.external_service(scope, external, type_=spec.service.type.value))
    if spec.scaling is not None:
        children.append(cloud.autoscaler(scope, name, role=role, scaling=spec.scaling))
    return children, dataclasses.replace(planned, revision=found)


def pool_role(wanted: topology.InferenceTopology, pool: DevicePool) -> RolePlan:
    """A pool's workload by name alone, for one that cannot be planned yet."""
    kind = DAEMON_SET if pool.replicas is None else DEPLOYMENT
    cluster = ClusterRef(pool.cluster_secret_ref.name, pool.cluster_secret_ref.key) if pool.cluster_secret_ref else None
    workload = (kind.kind, names.device_name(wanted.name, pool.name))
    return RolePlan(
        role=names.ROLE_DEVICE,
        workload=workload,
        revision="",
        pool=pool.name,
        cluster=cluster,
        progress_s=pool.rollout.progress_deadline_seconds,
    )


def pool_children(
    context: Context, pool: DevicePool, *, endpoints: tuple[str, ...], cloud_ports: tuple[int, ...]
) -> tuple[list[Manifest], RolePlan]:
    """Children of a device pool, and its workload; `cloud_ports` are those of another cluster's cloud tier.

    Devices of another cluster read the endpoints from a file: addresses of nodes and load balancers change, and the
    pods are not to restart for that.
    """
    planned = pool_role(context.wanted, pool)
    scope = dataclasses.replace(context.scope, remote=planned.cluster is not None)
    name, role = planned.workload[1], names.ROLE_DEVICE
    exposure = device.exposure(pool)
    shown = exposure is not spec_kinds.ApiExposure.NONE
    moving = endpoints if scope.remote else ()
    fixed = (f"file:{pod.ENDPOINTS_DIR}/{pod.ENDPOINTS_KEY}",) if moving else endpoints
    endpoints_map = names.child_name(name, pod.ENDPOINTS_KEY)
    found_config = configuration.device(
        context,
        pool,
        name=name,
        endpoints=fixed,
        host=configuration.ALL_ADDRESSES if shown else configuration.LOOPBACK,
        server_name=service_host(context.wanted),
    )
    config, keys, model = found_config.to_json(), pool.api.keys_secret_ref, context.model_of(pool)
    fetched = any(each.fetched_over_network for each in (model.files, context.drafter) if each is not None)
    shape = pod.PodShape(
        role=role,
        runs=found_config.role,
        pool=pool.name,
        config_map=name,
        endpoints_map=endpoints_map if moving else None,
        service_account=name,
        options=pool.pod,
        ports=device.ports(pool),
        node_selector=pool.node_selector,
        tolerations=device.tolerations(pool),
        claims=inspection.claims(model.files, context.drafter),
        tls_secret=tls_names(context.wanted.name)[2] if context.certified.on else None,
        keys_secret=keys.name if keys else None,
        credentials=model.credentials if fetched else None,
        fetches=fetched,
        spread=pool.replicas is not None,
        grace_s=pod.grace_s(pool.drain_seconds),
    )
    engine = external(context.wanted)
    if engine is not None and engine.api_key_secret_ref is not None:
        secret = engine.api_key_secret_ref
        shape = dataclasses.replace(shape, engine_key=(secret.name, secret.key))
    template, found = revision.stamp(pod.template(scope, shape), config)
    workload = device.workload(scope, name, pool=pool, template=template)
    children = [
        plain.service_account(scope, name, role=role, pool=pool.name),
        plain.role_config_map(
            scope, revision.config_map_name(name, found), role=role, pool=pool.name, config=config, revision=found
        ),
        network.device_policy(
            scope,
            name,
            pool=pool.name,
            api_port=pool.api.port if shown else None,
            cloud_ports=cloud_ports if runs_cloud(context.wanted) else None,
            engine_url=engine.url if engine is not None else "",
            sources=context.sources(model),
            otlp_endpoint=context.otlp_endpoint,
        ),
        workload,
    ]
    if moving:
        children.append(plain.endpoints_map(scope, endpoints_map, pool=pool.name, endpoints=moving))
    if exposure is spec_kinds.ApiExposure.SERVICE:
        children.append(network.device_service(scope, name, pool=pool.name, port=pool.api.port))
    own = context.pool_models.get(pool.name)
    return children, dataclasses.replace(planned, revision=found, model_digest=own.digest if own else None)
