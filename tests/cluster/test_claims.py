"""Two operators that watch one namespace: whose claim is there serves it, the other one once that is gone."""

from __future__ import annotations

import signal

from tests.cluster import operator_process, worlds

PASSES = "milliner_operator_reconciles_total"
REFUSED = {"model": {"source": "builtin://demo", "digest": "sha256:" + "0" * 64}}  # never gets ready: looked at often


def operator(world: worlds.World, installation: str) -> operator_process.OperatorProcess:
    found = world.operator.another(namespace=world.namespace)
    found._log = found._log.with_name(installation.replace("/", "-"))
    found._environment = found._environment | {"MILLINER_INSTALLATION": installation}
    return found


def test_the_one_without_the_claim_waits_for_the_others_end(world: worlds.World) -> None:
    world.operator.stop(signal.SIGKILL)
    claim = {"apiVersion": "v1", "kind": "ConfigMap", "data": {"operator": "one/milliner"}}
    claim |= {"metadata": {"name": "milliner-claim", "labels": {"milliner.dev/claim": "namespace"}}}
    world.server.request("POST", world.path("configmaps"), body=claim)
    one, two = operator(world, "one/milliner"), operator(world, "two/milliner")
    try:
        two.start()
        one.start()
        world.until(lambda: "served by one/milliner" in two.log)
        world.apply("chat", **REFUSED)
        one.passes(2)
        assert two.metric(PASSES) == 0
        assert one.stop() == 0
        world.server.request("DELETE", world.path("configmaps", "milliner-claim"))
        two.passes(1)
    finally:
        for each in (one, two):
            each.stop(signal.SIGKILL)
