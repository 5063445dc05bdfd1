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
import prometheus_client

from milliner_operator import errors, handlers, presence, settings
from milliner_operator.api import KubernetesApi
from milliner_operator.metrics import Metrics
from milliner_operator.queue import WorkQueue
from milliner_operator.reconcile import Reconciler
from milliner_operator.remote import Clusters

EXIT_WRONG_SETTINGS = 2
_TOLD_FOR_EACH_PROBE = ("kopf.activities.probe", "aiohttp.access")


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
    """Logs to standard error; what is told for every event or probe is left out above DEBUG."""
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)  # it tells of every event of every child
    for chatty in _TOLD_FOR_EACH_PROBE:
        logging.getLogger(chatty).setLevel(logging.DEBUG if level == "DEBUG" else logging.WARNING)


async def serve(chosen: settings.Settings) -> None:
    """Watches, reconciles and serves metrics and liveness until kopf is told to end."""
    metrics = Metrics()
    client = KubernetesApi.of_environment(told=metrics.answered)
    connect = functools.partial(KubernetesApi.of_kubeconfig, told=metrics.answered, servers=chosen.remote_servers)
    clusters = Clusters(client, connect=connect)
    reconciler = Reconciler(client, settings=chosen, clusters=clusters, metrics=metrics)
    queue = WorkQueue(reconciler, is_slow=reconciler.waits_for_others)
    metrics.waiting.set_function(lambda: float(len(queue)))
    insights = presence.Insights()
    registry, kopf_settings = kopf.OperatorRegistry(), kopf.OperatorSettings()
    handlers.configure(kopf_settings)
    handlers.register(registry, add=queue.add, is_alive=queue.is_alive)
    if chosen.metrics_port:
        prometheus_client.start_http_server(chosen.metrics_port)
    try:
        async with asyncio.TaskGroup() as group:
            await presence.await_kind(client)
            working = group.create_task(queue.run(), name="queue")
            keeping = presence.keep(client, insights, namespaces=chosen.watch_namespaces, forget=queue.forget)
            looking = group.create_task(keeping, name="presence")
            await kopf.operator(
                registry=registry,
                insights=insights,
                settings=kopf_settings,
                standalone=True,
                clusterwide=not chosen.watch_namespaces,
                namespaces=chosen.watch_namespaces,
                liveness_endpoint=f"http://0.0.0.0:{chosen.liveness_port}/healthz",
            )
            working.cancel()
            looking.cancel()
    finally:
        client.close()


if __name__ == "__main__":
    sys.exit(main())
