"""What the operator's code asks of API servers, found out from the code: calls of `Api`, watches, owner references.

A call names its kind (`kinds.POD`), a table over which it runs (`for kind in kinds.CHILDREN`), or it takes a manifest
or a reference: then it may be any child's.
"""

from __future__ import annotations

import ast
import pathlib
from collections.abc import Collection, Iterable, Iterator

import kopf

import milliner_operator
from milliner_operator import api, handlers, kinds
from milliner_operator.children import common
from milliner_operator.settings import Settings

Needed = dict[tuple[str, str], set[str]]  # verbs by group and resource

_PACKAGE = pathlib.Path(milliner_operator.__file__).parent
_STATUS, _FINALIZERS, _PROXY = "/status", "/finalizers", "/proxy"
# Server-side apply is a patch, and makes what is not there. Of `Api`'s methods none may be missing here.
_VERBS = {
    "get": {"get"},
    "list": {"list"},
    "apply": {"patch", "create"},
    "apply_status": {"patch"},
    "merge": {"patch"},
    "create": {"create"},
    "delete": {"delete"},
    "proxy_pod": {"get"},
    "serves": set(),  # discovery, which everybody may ask
    "close": set(),  # asks nothing
}
_IMPLIED = {"apply_status": (kinds.TOPOLOGY, _STATUS), "proxy_pod": (kinds.POD, _PROXY)}


def by_calls(modules: Collection[str] | None = None, *, any_child: Iterable[kinds.Kind]) -> Needed:
    """What the calls in these modules (None: in all) need; `any_child` are the kinds of a child that is not named."""
    assert set(_VERBS) == {name for name in vars(api.Api) if not name.startswith("_")}
    needed: Needed = {}
    for path in sorted(_PACKAGE.rglob("*.py")):
        if path.stem == "api" or (modules is not None and path.stem not in modules):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        tables = dict(_loops(tree))
        for call, method in _calls(tree):
            if method in _IMPLIED:
                kind, part = _IMPLIED[method]
                _add(needed, [kind], _VERBS[method], part=part)
            else:
                named = _kinds(call.args[0], tables) if call.args else None
                _add(needed, any_child if named is None else named, _VERBS[method])
    return needed


def by_watches() -> Needed:
    """What kopf lists and watches."""
    registry = kopf.OperatorRegistry()
    handlers.register(registry, add=lambda _: None)
    needed: Needed = {}
    for selector in registry._watching.get_all_selectors():
        assert selector.group is not None and isinstance(selector.any_name, str)
        needed.setdefault((selector.group, selector.any_name), set()).update(("list", "watch"))
    return needed


def by_owner_references() -> Needed:
    """Whose deletion an owner reference blocks needs leave of that owner's finalizers."""
    scope = common.Scope(topology="chat", namespace="default", uid="u", settings=Settings())
    reference = common.owner_reference(scope)
    owner = next(kind for kind in kinds.BY_KIND.values() if kind.kind == reference["kind"])
    needed: Needed = {}
    if reference["blockOwnerDeletion"]:
        _add(needed, [owner], {"update"}, part=_FINALIZERS)
    return needed


def together(*parts: Needed) -> Needed:
    """All of them."""
    found: Needed = {}
    for part in parts:
        for resource, verbs in part.items():
            found.setdefault(resource, set()).update(verbs)
    return found


def _add(needed: Needed, of: Iterable[kinds.Kind], verbs: set[str], *, part: str = "") -> None:
    for kind in of if verbs else ():
        needed.setdefault((kind.group, f"{kind.plural}{part}"), set()).update(verbs)


def _calls(tree: ast.Module) -> Iterator[tuple[ast.Call, str]]:
    """Calls of `Api`'s methods: of what is called a client here."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _VERBS:
            receiver = node.func.value
            name = receiver.id if isinstance(receiver, ast.Name) else getattr(receiver, "attr", "")
            if name.lstrip("_") in ("client", "local"):
                yield node, node.func.attr


def _loops(tree: ast.Module) -> Iterator[tuple[str, Iterable[kinds.Kind]]]:
    """Names that run over a table of kinds."""
    for node in ast.walk(tree):
        if isinstance(node, ast.comprehension | ast.For) and isinstance(node.target, ast.Name):
            table = getattr(kinds, node.iter.attr, None) if isinstance(node.iter, ast.Attribute) else None
            if isinstance(table, tuple):
                yield node.target.id, table


def _kinds(argument: ast.expr, tables: dict[str, Iterable[kinds.Kind]]) -> Iterable[kinds.Kind] | None:
    name = argument.attr if isinstance(argument, ast.Attribute) else getattr(argument, "id", "")
    found = getattr(kinds, name, None)
    return [found] if isinstance(found, kinds.Kind) else tables.get(name)
