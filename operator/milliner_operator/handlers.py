"""What kopf does here: it watches topologies and their children and calls `add`; deciding is `reconcile`'s.

Only `on.event` handlers: daemons, timers and deletion handlers would put finalizers on objects that hang when the
operator is gone, and change handlers would write annotations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kopf

from milliner.contract import names
from milliner_operator import kinds
from milliner_operator.children import common
from milliner_operator.queue import Key

# The API server ends a watch after this (whole seconds only); unset, a silent connection would be waited on for ever.
_SERVER_S = 300
_CLIENT_S = 330.0
_CONNECT_S = 10.0
_REQUEST_S = 30.0


def configure(settings: kopf.OperatorSettings) -> None:
    """kopf's settings: deadlines on watches, nothing written by kopf itself, children filtered by the API server."""
    settings.watching.server_timeout = _SERVER_S
    settings.watching.client_timeout = _CLIENT_S
    settings.watching.connect_timeout = _CONNECT_S
    settings.networking.request_timeout = _REQUEST_S
    settings.posting.enabled = False
    settings.scanning.disabled = True  # no rights on CRDs and namespaces are needed then
    settings.peering.standalone = True  # `claims` says who serves what
    settings.persistence.finalizer = f"{names.GROUP}/kopf"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=f"kopf.{names.GROUP}")
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=f"kopf.{names.GROUP}")
    for kind in kinds.CHILDREN:
        settings.watching.label_selectors[kind.group, kind.version, kind.plural] = (
            f"{common.LABEL_MANAGED_BY}={common.MANAGED_BY}"
        )


def register(registry: kopf.OperatorRegistry, *, add: Callable[[Key], None]) -> None:
    """Registers the handlers: every event of a topology or of one of its children makes the topology due."""

    async def on_topology(*, namespace: str | None, name: str | None, **_: Any) -> None:
        if namespace and name:
            add((namespace, name))

    async def on_child(*, namespace: str | None, body: kopf.Body, **_: Any) -> None:
        for owner in body["metadata"].get("ownerReferences") or ():
            if namespace and owner["kind"] == names.KIND:
                add((namespace, owner["name"]))

    def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)

    kopf.on.login(registry=registry, id="login")(login)
    kopf.on.event(names.GROUP, names.VERSION, names.PLURAL, registry=registry)(on_topology)
    for kind in kinds.CHILDREN:
        kopf.on.event(kind.group, kind.version, kind.plural, registry=registry)(on_child)
