"""Brings one cluster's children to what a plan wants: applies what differs, deletes what is ours and not wanted.

An object that belongs to somebody else is left alone and reported. Used for the topology's own cluster and for others;
the caller has listed what is there. `decide` says what to do from that alone, `execute` does it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping

from milliner.contract import names
from milliner_operator import api, errors, kinds, observed, retained, sameness
from milliner_operator.children import common
from milliner_operator.conditions import Reason
from milliner_operator.observed import Manifest, Ref, Trouble

_ORDER = {kind.kind: index for index, kind in enumerate((*kinds.CHILDREN, kinds.CERTIFICATE))}


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """The children after the pass, and what stood in the way."""

    objects: Mapping[Ref, Manifest]
    troubles: Mapping[str, Trouble]  # the first of each role
    writes: int


@dataclasses.dataclass(frozen=True, slots=True)
class Steps:
    """What one pass does, in this order."""

    delete_first: tuple[Ref, ...] = ()
    apply: tuple[Manifest, ...] = ()
    delete_last: tuple[Ref, ...] = ()  # only once everything could be applied
    delete_unused: Mapping[Ref, str] = dataclasses.field(default_factory=dict)  # then, where no pod is so labelled


def decide(
    wanted: Iterable[Manifest],
    *,
    uid: str,
    live: Mapping[Ref, Manifest],
    unwanted: Iterable[Ref] = (),
    complete: bool,
    awaiting: Collection[str] = (),
) -> Steps:
    """Applies what differs; deletes, of what is the topology's own, `unwanted` always and the rest that is not `wanted`
    only if the plan is `complete`, but for what pods of a former revision may need (`retained`) and what is of pools
    that are `awaiting` something before they can be planned. Pure."""
    desired = sorted(wanted, key=lambda each: _ORDER[each["kind"]])
    first = tuple(ref for ref in unwanted if _deletable(live.get(ref), uid))
    left = {ref: each for ref, each in live.items() if ref not in first}
    kept = {observed.ref(manifest) for manifest in desired}
    gone = [ref for ref, each in left.items() if complete and ref not in kept and _deletable(each, uid)]
    gone = [ref for ref in gone if _pool(left[ref]) not in awaiting]
    needed = retained.find(gone, wanted=desired, live=left)
    last = tuple(ref for ref in gone if ref not in needed.refs)
    return Steps(first, tuple(each for each in desired if not _is_there(each, left, uid)), last, needed.by_pods)


async def execute(
    client: api.Api,
    *,
    namespace: str,
    uid: str,
    wanted: Iterable[Manifest],
    live: Mapping[Ref, Manifest],
    unwanted: Iterable[Ref] = (),
    complete: bool,
    awaiting: Collection[str] = (),
) -> Outcome:
    """One pass: does what `decide` says."""
    steps = decide(wanted, uid=uid, live=live, unwanted=unwanted, complete=complete, awaiting=awaiting)
    objects, writes = dict(live), 0
    troubles: dict[str, Trouble] = {}
    for ref in steps.delete_first:
        writes += await _delete(client, namespace=namespace, ref=ref, objects=objects, troubles=troubles)
    for manifest in steps.apply:
        ref = observed.ref(manifest)
        try:
            objects[ref] = await _apply(client, manifest, uid=uid, found=objects.get(ref))
            writes += 1
        except _Leaving as error:
            troubles.setdefault(_role(manifest), Trouble(Reason.RECONCILING, str(error)))
        except _NotOwned as error:
            troubles.setdefault(_role(manifest), Trouble(Reason.CHILD_NOT_OWNED, str(error)))
        except (errors.Forbidden, errors.Refused, errors.NotFound, errors.Failed) as error:
            message = f"{ref[0]} {ref[1]}: {error.message}"
            troubles.setdefault(_role(manifest), Trouble(Reason.RECONCILE_ERROR, message))
    if not troubles:
        unused = await _unused(client, namespace, steps.delete_unused)
        for ref in (*steps.delete_last, *unused):
            writes += await _delete(client, namespace=namespace, ref=ref, objects=objects, troubles=troubles)
    return Outcome(objects=objects, troubles=troubles, writes=writes)


def owned(found: Manifest, uid: str) -> bool:
    """Whether an object is this topology's: by its controller, or by label."""
    labels = found["metadata"].get("labels") or {}
    return uid in (observed.controller_uid(found), labels.get(common.LABEL_TOPOLOGY_UID))


def _is_there(manifest: Manifest, live: Mapping[Ref, Manifest], uid: str) -> bool:
    found = live.get(observed.ref(manifest))
    return found is not None and owned(found, uid) and sameness.unchanged(manifest, found)


def _deletable(found: Manifest | None, uid: str) -> bool:
    return found is not None and owned(found, uid) and "deletionTimestamp" not in found["metadata"]


def _pool(found: Manifest) -> str | None:
    return (found["metadata"].get("labels") or {}).get(names.LABEL_POOL)


def _role(manifest: Manifest) -> str:
    return str(manifest["metadata"]["labels"][names.LABEL_ROLE])


class _NotOwned(Exception):
    """The object of that name is somebody else's."""


class _Leaving(Exception):
    """The object of that name is of a topology of this name that is gone: the garbage collector will delete it."""


async def _apply(client: api.Api, manifest: Manifest, *, uid: str, found: Manifest | None) -> Manifest:
    kind, metadata = kinds.BY_KIND[manifest["kind"]], manifest["metadata"]
    if found is None:  # it may be there without our label
        found = await client.get(kind, metadata["namespace"], metadata["name"])
    if found is not None and not owned(found, uid) and not _abandoned(found, manifest):
        raise _refusal(found, manifest)
    return await client.apply(manifest)


def _refusal(found: Manifest, manifest: Manifest) -> Exception:
    """Why an object that is not ours stays as it is."""
    what = f"{found.get('kind') or manifest['kind']} {manifest['metadata']['name']}"
    ours = (manifest["metadata"].get("ownerReferences") or [{}])[0]
    owner: Manifest = next(
        (each for each in found["metadata"].get("ownerReferences") or [] if each.get("controller")), {}
    )
    if owner and all(owner.get(key) == ours.get(key) for key in ("kind", "name")):
        return _Leaving(f"{what} is of a topology of this name that was deleted: it is awaited to go")
    label = (found["metadata"].get("labels") or {}).get(common.LABEL_TOPOLOGY_UID)
    if not owner and label:
        return _NotOwned(
            f"{what} is of the topology with uid {label}, which another cluster may have under this name: rename this "
            "one, or delete that object if its topology is gone"
        )
    named = f"{owner['kind']} {owner['name']}" if owner else "somebody else"
    return _NotOwned(f"{what} exists and belongs to {named}: delete or rename it")


def _abandoned(found: Manifest, manifest: Manifest) -> bool:
    """Whether an object was made for a topology of this name that is gone: ours by label, without any controller. Those
    in other clusters never have one, but a topology's uid: of another's it cannot be told whether it is gone."""
    labels, expected = found["metadata"].get("labels") or {}, manifest["metadata"]["labels"]
    keys = (common.LABEL_MANAGED_BY, names.LABEL_TOPOLOGY)
    unclaimed = not observed.controller_uid(found) and common.LABEL_TOPOLOGY_UID not in labels
    return unclaimed and all(labels.get(key) == expected[key] for key in keys)


async def _unused(client: api.Api, namespace: str, selectors: Mapping[Ref, str]) -> list[Ref]:
    """Those whose selector finds no pod."""
    found = []
    for ref, labels in selectors.items():
        if not await client.list(kinds.POD, namespace, labels=labels, limit=1):
            found.append(ref)
    return found


async def _delete(
    client: api.Api, *, namespace: str, ref: Ref, objects: dict[Ref, Manifest], troubles: dict[str, Trouble]
) -> bool:
    """Whether it could be deleted; an admission policy that refuses is a trouble of that object's role alone."""
    found = objects[ref]
    try:
        await client.delete(kinds.BY_KIND[ref[0]], namespace, ref[1], uid=found["metadata"]["uid"])
    except (errors.Forbidden, errors.Refused, errors.Failed) as error:
        message = f"{ref[0]} {ref[1]} cannot be deleted: {error.message}"
        role = str((found["metadata"].get("labels") or {}).get(names.LABEL_ROLE, common.ROLE_SHARED))
        troubles.setdefault(role, Trouble(Reason.RECONCILE_ERROR, message))
        return False
    del objects[ref]
    return True
