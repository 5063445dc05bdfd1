"""`python -m milliner_operator`: the operator, until SIGTERM; the only reader of the environment.

Exit status 0: ended as asked; 1: it failed; 2: a setting is wrong, which is named.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import signal
import sys

import kopf

from milliner_operator import claims, errors, handlers, health, presence, settings
from milliner_operator.api import KubernetesApi
from milliner_operator.kopf_namespaces import Watched
from milliner_operator.metrics import Metrics
from milliner_operator.queue import WorkQueue
from milliner_operator.reconcile import Reconciler
from milliner_operator.remote import Clusters

EXIT_WRONG_SETTINGS = 2


def main() -> int:
    """Runs the operator and returns its exit status."""
    try:
        chosen = settings.read(os.environ)
    except errors.SettingsInvalid as error:
        print(f"milliner_operator: {error}", file=sys.stderr)
        return EXIT_WRONG_SETTINGS
    set_up_logging(chosen.log_level)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until kopf has handlers of its own
    status = 0
    try:
        asyncio.run(serve(chosen))
    except* errors.KindGone as gone:
        print(f"milliner_operator: {gone.exceptions[0]}", file=sys.stderr)
        status = 1
    return status


def set_up_logging(level: str) -> None:
    """Logs to standard error; what kopf tells of every event of every child is left out."""
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)


async def serve(chosen: settings.Settings) -> None:
    """Watches, reconciles and serves metrics, liveness and readiness until kopf is told to end."""
    metrics = Metrics()
    client = KubernetesApi.of_environment(told=metrics.answered)
    connect = functools.partial(KubernetesApi.of_kubeconfig, told=metrics.answered, servers=chosen.remote_servers)
    clusters = Clusters(client, connect=connect)
    reconciler = Reconciler(client, settings=chosen, clusters=clusters, metrics=metrics)
    claimed = claims.Claims(client, me=chosen.installation, namespaces=chosen.watch_namespaces)
    gate = claims.Gate(reconciler, claims=claimed, left=metrics.forget)
    queue = WorkQueue(gate, is_slow=reconciler.waits_for_others)
    metrics.waiting.set_function(lambda: float(len(queue)))
    watching = asyncio.Event()

    def why_unready() -> str:
        return claimed.why_idle() if watching.is_set() else "waiting for the definition of topologies"

    if chosen.metrics_port:
        metrics.serve(chosen.metrics_port)
    try:
        async with (
            health.served(chosen.liveness_port, is_alive=queue.is_alive, why_unready=why_unready),
            asyncio.TaskGroup() as group,
        ):
            tasks = [group.create_task(queue.run(), name="queue"), group.create_task(claimed.keep(), name="claims")]
            await presence.await_kind(client)
            watching.set()
            await _watch(client, queue, chosen, group)
            for task in tasks:
                task.cancel()
    finally:
        client.close()


async def _watch(client: KubernetesApi, queue: WorkQueue, chosen: settings.Settings, group: asyncio.TaskGroup) -> None:
    """Has kopf make topologies due until it is told to end."""
    watched = Watched()
    registry, kopf_settings = kopf.OperatorRegistry(), kopf.OperatorSettings()
    handlers.configure(kopf_settings)
    handlers.register(registry, add=queue.add)
    keeping = presence.keep(client, watched, namespaces=chosen.watch_namespaces, forget=queue.forget)
    looking = group.create_task(keeping, name="presence")
    await kopf.operator(
        registry=registry,
        insights=watched.insights,
        settings=kopf_settings,
        standalone=True,
        clusterwide=not chosen.watch_namespaces,
        namespaces=chosen.watch_namespaces,
    )
    looking.cancel()


if __name__ == "__main__":
    sys.exit(main())
