"""An API server in memory, as much of one as the operator calls: server-side apply of one manager, uids, generations.

`writes` lists what was written, as (verb, kind, name); `fail` makes calls raise.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from milliner_operator import errors, kinds
from milliner_operator.kinds import Kind
from milliner_operator.observed import Manifest
from milliner_operator.sameness import FIELD_MANAGER

Key = tuple[str, str, str]  # kind, namespace, name


class FakeApi:
    """Implements `api.Api`."""

    def __init__(self) -> None:
        self.objects: dict[Key, Manifest] = {}
        self.writes: list[tuple[str, str, str]] = []
        self.probes: dict[str, str] = {}  # pod -> body of its /probe
        self.fail: Callable[[str, str], errors.ApiError | None] = lambda verb, kind: None
        self._numbers = itertools.count(1)

    def put(self, manifest: Manifest) -> Manifest:
        """What somebody else created or changed; not counted as a write."""
        return self._store(manifest, managed=False)

    def one(self, kind: str, name: str, namespace: str = "default") -> Manifest:
        return self.objects[kind, namespace, name]

    def names(self, kind: str) -> list[str]:
        return sorted(name for found, _, name in self.objects if found == kind)

    async def get(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        self._may_fail("get", kind.kind)
        return copy.deepcopy(self.objects.get((kind.kind, namespace, name)))

    async def list(
        self, kind: Kind, namespace: str, *, labels: str = "", fields: str = "", limit: int = 0
    ) -> Sequence[Manifest]:
        self._may_fail("list", kind.kind)
        wanted = dict(part.split("=", 1) for part in labels.split(",") if part)
        found = [
            copy.deepcopy(each)
            for (name, there, _), each in sorted(self.objects.items())
            if name == kind.kind and there == namespace and _has(each, wanted) and _matches(each, fields)
        ]
        return found[:limit] if limit else found

    async def apply(self, manifest: Manifest) -> Manifest:
        self._write("apply", manifest["kind"], manifest["metadata"]["name"])
        return copy.deepcopy(self._store(manifest, managed=True))

    async def apply_status(self, namespace: str, name: str, status: Mapping[str, Any]) -> Manifest:
        self._write("status", kinds.TOPOLOGY.kind, name)
        found = self.objects[kinds.TOPOLOGY.kind, namespace, name]
        found["status"] = copy.deepcopy(dict(status))
        return copy.deepcopy(found)

    async def merge(self, kind: Kind, namespace: str, name: str, patch: Mapping[str, Any]) -> Manifest:
        self._write("patch", kind.kind, name)
        found = self.objects[kind.kind, namespace, name]
        found["metadata"]["finalizers"] = patch["metadata"]["finalizers"]
        if "deletionTimestamp" in found["metadata"] and not patch["metadata"]["finalizers"]:
            del self.objects[kind.kind, namespace, name]
        return copy.deepcopy(found)

    async def create(self, kind: Kind, manifest: Manifest) -> Manifest:
        self._write("create", kind.kind, manifest["metadata"].get("name", ""))
        return manifest

    async def delete(self, kind: Kind, namespace: str, name: str, *, uid: str) -> None:
        self._write("delete", kind.kind, name)
        found = self.objects.get((kind.kind, namespace, name))
        if found is not None and found["metadata"]["uid"] == uid:
            del self.objects[kind.kind, namespace, name]

    async def proxy_pod(self, namespace: str, pod: str, *, port: int, path: str, timeout_s: float) -> str:
        if pod not in self.probes:
            raise errors.Unreachable(503, "no endpoint")
        return self.probes[pod]

    def _write(self, verb: str, kind: str, name: str) -> None:
        self._may_fail(verb, kind)
        self.writes.append((verb, kind, name))

    def _may_fail(self, verb: str, kind: str) -> None:
        if (error := self.fail(verb, kind)) is not None:
            raise error

    def _store(self, manifest: Manifest, *, managed: bool) -> Manifest:
        stored, metadata = copy.deepcopy(manifest), manifest["metadata"]
        key = (manifest["kind"], metadata.get("namespace", "default"), metadata["name"])
        old = self.objects.get(key)
        number = next(self._numbers)
        changed = old is None or old.get("spec") != manifest.get("spec")
        kept = old["metadata"] if old else {}
        stored["metadata"] |= {
            "namespace": key[1],
            "uid": metadata.get("uid") or kept.get("uid", f"uid-{number}"),
            "generation": kept.get("generation", 0) + (1 if changed else 0),
            "resourceVersion": str(number),
        }
        if managed:
            fields = {"f:" + key: _owned(value) for key, value in manifest.items() if key not in ("kind", "apiVersion")}
            entry = {"manager": FIELD_MANAGER, "operation": "Apply", "fieldsV1": fields}
            stored["metadata"]["managedFields"] = [entry]
        if old is not None and "status" in old:
            stored.setdefault("status", old["status"])
        self.objects[key] = stored
        return stored


def _owned(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {}
    return {f"f:{key}": _owned(below) for key, below in value.items()}


def _has(manifest: Manifest, wanted: Mapping[str, str]) -> bool:
    labels = manifest["metadata"].get("labels") or {}
    return all(labels.get(key) == value for key, value in wanted.items())


def _matches(manifest: Manifest, fields: str) -> bool:
    """The selectors that the operator uses: a phase that is Running or not, and the object and reason of an event."""
    if not fields:
        return True
    if fields.startswith("involvedObject"):
        about = manifest["involvedObject"]
        return (
            f"involvedObject.kind={about['kind']},involvedObject.name={about['name']},reason={manifest['reason']}"
            == fields
        )
    running = (manifest.get("status") or {}).get("phase") == "Running"
    return running is ("!=" not in fields)
