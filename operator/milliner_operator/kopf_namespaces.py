"""The namespaces that kopf watches, changed while it runs: the one place that knows of what kopf does not export.

`kopf.operator` takes `insights` as an argument, but exports no name for its type. Should a version of kopf move it or
look at other fields, the import or a test of this module says so, and nothing else is concerned.
"""

from __future__ import annotations

import asyncio

from kopf._cogs.structs import references


class Watched:
    """kopf's own record; give `insights` to `kopf.operator`. Event loop only."""

    def __init__(self) -> None:
        self.insights = references.Insights()

    @property
    def names(self) -> frozenset[str]:
        """The namespaces that are watched now; empty where all are."""
        return frozenset(each for each in self.insights.namespaces if each is not None)

    @property
    def is_ready(self) -> bool:
        """Whether kopf has filled it in at its start."""
        return self.insights.ready_namespaces.is_set()

    @property
    def changed(self) -> asyncio.Condition:
        """Notified of each change: what wakes kopf."""
        return self.insights.revised

    async def begin(self, namespace: str) -> None:
        """Has kopf watch a namespace."""
        async with self.changed:
            self.insights.namespaces.add(references.NamespaceName(namespace))
            self.changed.notify_all()

    async def end(self, namespace: str) -> None:
        """Has kopf end the watches of a namespace."""
        async with self.changed:
            self.insights.namespaces.discard(references.NamespaceName(namespace))
            self.changed.notify_all()
