"""The configuration of each role in a cluster: what the contract plans for any machine, and what pods add to it. Pure.

Split strategies and those over whole models differ here and nowhere else in the children.
"""

from __future__ import annotations

from collections.abc import Sequence

from milliner.contract import plan, plan_whole, role_config
from milliner.contract.devices import DevicePool
from milliner_operator.children import common, pod
from milliner_operator.children.files import Files, model_files
from milliner_operator.context import Context, Model

# Arbitrary: most answers end within it, and what does not goes on at another replica from where it was.
CLOUD_DRAIN_S = 45
ALL_ADDRESSES = "::"  # IPv4's too; where a node has no IPv6, those alone
LOOPBACK = "127.0.0.1"


def cloud(
    context: Context, *, name: str, stage: int, next_endpoints: Sequence[str], server_name: str
) -> role_config.CloudRoleConfig | role_config.PrefillRoleConfig:
    """The configuration of all replicas of a pipeline stage; a whole model has but one stage."""
    base: role_config.CloudRoleConfig | role_config.PrefillRoleConfig
    if isinstance(context.resolved, plan.Resolved):
        base = plan.cloud_config(
            context.resolved, name=name, port=common.GRPC_PORT, stage=stage, next_endpoints=next_endpoints
        )
    else:
        base = plan_whole.prefill_config(context.resolved, name=name, port=common.GRPC_PORT)
    update = _in_a_cluster(
        context, base, model=context.model, host=ALL_ADDRESSES, drain_s=CLOUD_DRAIN_S, server_name=server_name
    )
    return base.model_copy(update=update)


def device(
    context: Context, pool: DevicePool, *, name: str, endpoints: tuple[str, ...], host: str, server_name: str
) -> role_config.DeviceRoleConfig | role_config.WholeDeviceRoleConfig:
    """The configuration of all devices of a pool."""
    base: role_config.DeviceRoleConfig | role_config.WholeDeviceRoleConfig
    port, own = pool.api.port, dict[str, object]()
    if isinstance(context.resolved, plan.Resolved):
        base = plan.device_config(context.resolved, pool, name=name, port=port, cloud_endpoints=endpoints)
        own = {"strategy": _with_drafter(base.strategy, context.drafter)}
    else:
        base = plan_whole.device_config(
            context.resolved, pool, name=name, port=port, cloud_endpoints=endpoints, api_key_file=pod.ENGINE_KEY_FILE
        )
        comparable = context.resolved.has_cloud and context.resolved.external is None
        own = {"cloud_model_digest": context.model.digest if comparable else None}
    model = context.model_of(pool)
    common_update = _in_a_cluster(
        context, base, model=model, host=host, drain_s=pool.drain_seconds, server_name=server_name
    )
    keys = {"api_keys_dir": pod.KEYS_DIR if pool.api.keys_secret_ref else None}
    return base.model_copy(update=common_update | keys | own)


def _in_a_cluster(
    context: Context, base: role_config.RoleConfig, *, model: Model, host: str, drain_s: int, server_name: str
) -> dict[str, object]:
    """What a cluster adds to any role's configuration."""
    tls = role_config.TlsFiles(
        ca_file=f"{pod.TLS_DIR}/ca.crt",
        certificate_file=f"{pod.TLS_DIR}/tls.crt",
        key_file=f"{pod.TLS_DIR}/tls.key",
        server_name=server_name,
    )
    return {
        "listen": role_config.Listen(host=host, port=base.listen.port),
        "health_port": common.HEALTH_PORT,
        "drain_seconds": drain_s,
        "model": model_files(
            model.files,
            base=base.model,
            digest=model.digest,
            fingerprint=model.fingerprint,
            has_credentials=model.credentials is not None,
        ),
        "tls": tls if context.certified.on else None,
        "tracing": _tracing(context),
    }


def _tracing(context: Context) -> role_config.TraceExport | None:
    """Export as the topology asks for it, else as the operator's settings do."""
    tracing, settings = context.wanted.spec.tracing, context.scope.settings
    if not context.otlp_endpoint:
        return None
    sampling = tracing.sampling_percent if tracing.otlp_endpoint else settings.tracing_sampling_percent
    return role_config.TraceExport(otlp_endpoint=context.otlp_endpoint, sampling_percent=sampling)


def _with_drafter(strategy: role_config.DeviceStrategy, drafter: Files | None) -> role_config.DeviceStrategy:
    if drafter is None:
        return strategy
    field = "adapter_source" if strategy.adapter_path is not None else "heads_source"
    return strategy.model_copy(update={field: drafter.source})
