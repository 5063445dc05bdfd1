"""The last spec that could be planned, kept in a ConfigMap with its model's facts: in force until the next one can be.

A spec that is refused, or whose sources are not inspected yet, changes nothing that runs. What runs is to be kept all
the same: children that somebody deletes come back, certificates are renewed. Since nothing is kept in mind, the spec
that is in force is kept in the cluster. Pure; the planner makes the ConfigMap, `outlook` reads it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

from milliner.contract import errors, facts, names, topology
from milliner_operator import inspection, kinds, observed
from milliner_operator.children import common, plain
from milliner_operator.observed import Manifest, Ref
from milliner_operator.plan import Plan

SPEC_KEY = "spec.json"
_OWN = ".facts"  # ends the keys of facts about models that pools have of their own
_AT = "1970-01-01T00:00:00Z"  # when the facts were found out is of no matter once they are good


@dataclasses.dataclass(frozen=True, slots=True)
class Accepted:
    """A spec that was planned, and the lines of facts that it was planned with, by the ConfigMap that held each."""

    wanted: topology.InferenceTopology
    lines: Mapping[str, str]

    def objects(self, objects: Mapping[Ref, Manifest], *, scope: common.Scope) -> dict[Ref, Manifest]:
        """The children as if these facts were the last that were found out."""
        stored = (plain.facts_map(scope, name, line=line, at=_AT) for name, line in self.lines.items())
        return {**objects, **{observed.ref(each): each for each in stored}}


def config_map(
    scope: common.Scope, *, wanted: topology.InferenceTopology, found: Mapping[str, facts.InspectedFacts]
) -> Manifest:
    """The ConfigMap of a spec that could be planned; `found` are the facts by the ConfigMap that holds them."""
    spec = json.dumps(wanted.spec.document(), separators=(",", ":"), sort_keys=True)
    main = inspection.facts_name(wanted.name)
    lines = {plain.FACTS_KEY if name == main else f"{name}{_OWN}": each.to_line() for name, each in found.items()}
    data = {SPEC_KEY: spec, **lines}
    return common.manifest(scope, kinds.CONFIG_MAP, _name(scope.topology), role=common.ROLE_SHARED, data=data)


def stored(document: Manifest, objects: Mapping[Ref, Manifest], *, uid: str) -> Accepted | None:
    """The last spec of this very topology that could be planned; None where none is kept in a form that is known."""
    kept = objects.get(("ConfigMap", _name(document["metadata"]["name"])))
    if kept is None or observed.controller_uid(kept) != uid:
        return None  # of a topology of this name that is gone
    data = kept.get("data") or {}
    try:
        wanted = topology.parse({**document, "spec": json.loads(data[SPEC_KEY])})
    except (errors.SpecInvalid, ValueError, KeyError):
        return None  # nothing can be kept up, which is how it is before the first spec is planned
    lines = {inspection.facts_name(wanted.name): str(data.get(plain.FACTS_KEY) or "")}
    lines |= {key.removesuffix(_OWN): str(line) for key, line in data.items() if key.endswith(_OWN)}
    return Accepted(wanted, lines)


def meanwhile(refused: Plan, standing: Plan, *, tls_changes: bool) -> Plan:
    """The plan of a spec that cannot be planned, with the children of the `standing` one; it still deletes nothing.

    Facts belong to the new spec, so the standing plan's are left out; of all else that both have, such as certificates,
    the standing plan's is right, because it is what the pods that run were made with. Where `tls_changes` to another
    mode its Secrets are left out too: there somebody else may be filling them by now.
    """
    if not standing.planned:
        return refused

    def stays(manifest: Manifest) -> bool:
        of_tls = manifest["kind"] in (kinds.SECRET.kind, kinds.CERTIFICATE.kind)
        return plain.FACTS_AT not in (manifest.get("data") or ()) and not (tls_changes and of_tls)

    kept = {observed.ref(each): each for each in standing.local if stays(each)}
    added = (each for each in refused.local if observed.ref(each) not in kept)
    return dataclasses.replace(
        refused,
        local=(*kept.values(), *added),
        remote={cluster: tuple(filter(stays, manifests)) for cluster, manifests in standing.remote.items()},
        roles=refused.roles or standing.roles,
        endpoint=standing.endpoint,
    )


def _name(topology_name: str) -> str:
    return names.child_name(topology_name, "accepted")
