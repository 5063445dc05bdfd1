"""Which ConfigMaps of former revisions stay: those that pods may still start with. Pure; `executor` asks.

A role's configuration lies in a ConfigMap of its revision's own, so that a pod of an old revision that restarts in the
middle of a rollout, or of one that hangs, finds the configuration that it was made for; and a revert finds it there.
It goes when the rollout has ended: then no pod of another revision is left. A rollout over devices may never end, as
one of them is offline; there a revision's ConfigMap goes with its last pod, since a DaemonSet makes pods of its newest
template only. A Deployment's older ReplicaSets may still make some, so that it is waited for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from milliner.contract import names
from milliner_operator import kinds, workloads
from milliner_operator.observed import Manifest, Ref

_ROLE = (names.LABEL_ROLE, names.LABEL_POOL)
_REVISION = (names.LABEL_TOPOLOGY, *_ROLE, names.LABEL_REVISION)
_WORKLOADS = (kinds.DEPLOYMENT.kind, kinds.DAEMON_SET.kind)


@dataclasses.dataclass(frozen=True, slots=True)
class Retained:
    """What stays while a rollout is under way; of `by_pods` only as long as pods with these labels (a selector) are
    there."""

    refs: frozenset[Ref] = frozenset()
    by_pods: Mapping[Ref, str] = dataclasses.field(default_factory=dict)


def find(refs: Iterable[Ref], *, wanted: Iterable[Manifest], live: Mapping[Ref, Manifest]) -> Retained:
    """Of `refs`, live objects that are no longer wanted, those that pods of a `wanted` workload may need."""
    rollouts = {_labels(each, _ROLE): each for each in wanted if each["kind"] in _WORKLOADS}
    kept, by_pods = set[Ref](), dict[Ref, str]()
    for ref in refs:
        if ref[0] != kinds.CONFIG_MAP.kind:
            continue
        workload = rollouts.get(_labels(live[ref], _ROLE))
        if workload is None:
            continue
        found = live.get((workload["kind"], workload["metadata"]["name"]))
        progress = workloads.progress(found)
        current = progress.revision == workloads.revision(workload)
        if current and progress.complete:
            continue
        kept.add(ref)
        labels = _labels(live[ref], _REVISION)
        if workload["kind"] == kinds.DAEMON_SET.kind and current and progress.observed and all(labels):
            by_pods[ref] = ",".join(f"{key}={value}" for key, value in zip(_REVISION, labels, strict=True))
    return Retained(frozenset(kept), by_pods)


def _labels(manifest: Manifest, keys: tuple[str, ...]) -> tuple[str, ...]:
    labels = manifest["metadata"].get("labels") or {}
    return tuple(str(labels.get(key, "")) for key in keys)
