"""Whether a live object already is as desired, so that an unchanged world gets no write. Pure.

Two questions: does the live object hold every desired field, and does it still hold a field that this operator once
applied and no longer wants? The second is answered by `managedFields`, the API server's own record, so nothing has to
be remembered.

What an admission webhook adds is no difference, or it would be written anew with every pass. In a list that is merged
by key (containers, env, volumes) only the keys that are ours count. Of a list that is replaced as a whole (tolerations)
`managedFields` do not tell what was applied; but in a pod template of the revision that is wanted, as the revision is a
hash of it, whatever more there is in a list of ours was put there by admission.
"""

from __future__ import annotations

import decimal
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from milliner.contract import names
from milliner_operator.observed import Manifest

Fields = Mapping[str, Any]  # of a `fieldsV1` document, or of what it is about
FIELD_MANAGER = "milliner-operator"  # of all that the operator applies
_QUANTITY = re.compile(r"^([+-]?[0-9.]+)(m|k|Ki|Mi|Gi|Ti|Pi|M|G|T|P)?$")
_SUFFIXES = {
    "": decimal.Decimal(1),
    "m": decimal.Decimal("0.001"),
    "k": decimal.Decimal(10**3),
    **{suffix: decimal.Decimal(1000 ** (power + 2)) for power, suffix in enumerate("MGTP")},
    **{f"{suffix}i": decimal.Decimal(1024 ** (power + 1)) for power, suffix in enumerate("KMGTP")},
}
_NOT_OURS = frozenset({"apiVersion", "kind"})  # of every object; managedFields do not list them


def unchanged(desired: Manifest, live: Manifest, *, manager: str = FIELD_MANAGER) -> bool:
    """Whether applying `desired` as `manager` would change nothing of `live`."""
    wanted = {key: value for key, value in desired.items() if key not in _NOT_OURS}
    return _holds(wanted, live, _applied(live, manager=manager)) and not _drops(desired, live, manager=manager)


def _holds(desired: Any, live: Any, owned: Sequence[Fields], *, stamped: bool = False) -> bool:
    """Whether `live` has all of `desired`; defaults that the API server added are no difference, nor are false and
    empty values that it leaves out. `owned` is what is ours of it; `stamped`: it is of the wanted revision."""
    if live is None and not desired:
        return True
    if isinstance(desired, Mapping):
        if not isinstance(live, Mapping):
            return False
        here = stamped or _same_revision(desired, live)
        return all(
            not _is_taken(value, owned, key=key)
            and _holds(value, live.get(key), _below(owned, f"f:{key}"), stamped=here)
            for key, value in desired.items()
        )
    if isinstance(desired, list):
        return isinstance(live, list) and _holds_list(desired, live, owned, stamped=stamped)
    return bool(desired == live) or _same_quantity(desired, live)


def _is_taken(desired: Any, owned: Sequence[Fields], *, key: str) -> bool:
    """Whether somebody else has written a mapping of ours that is replaced as a whole, as a Service's selector is: it
    may then hold more than ours, which means something else, and `managedFields` list it with them alone."""
    return isinstance(desired, Mapping) and bool(desired) and any(owned) and not _below(owned, f"f:{key}")


def _holds_list(desired: list[Any], live: list[Any], owned: Sequence[Fields], *, stamped: bool) -> bool:
    merged = {key: json.loads(key[2:]) for fields in owned for key in fields if key.startswith("k:")}
    if merged:
        found = [(item, next((key for key, keys in merged.items() if _has(item, keys)), None)) for item in desired]
        return all(
            key is not None and _holds(item, _item(live, merged[key]), _below(owned, key), stamped=stamped)
            for item, key in found
        )
    if owned and stamped and len(live) > len(desired):
        rest = iter(live)
        return all(any(_holds(one, other, ()) for other in rest) for one in desired)  # in this order
    return len(live) == len(desired) and all(
        _holds(one, other, (), stamped=stamped) for one, other in zip(desired, live, strict=True)
    )


def _same_revision(desired: Fields, live: Fields) -> bool:
    """Whether both are pod templates of one revision."""
    wanted, found = (
        ((each.get("metadata") or {}).get("labels") or {}).get(names.LABEL_REVISION) for each in (desired, live)
    )
    return wanted is not None and wanted == found


def _below(owned: Sequence[Fields], key: str) -> list[Fields]:
    return [fields[key] for fields in owned if key in fields]


def _same_quantity(desired: Any, live: Any) -> bool:
    """`1000m` and `1` are one amount; the API server writes the shorter."""
    if not isinstance(desired, str) or not isinstance(live, str):
        return False
    one, other = _amount(desired), _amount(live)
    return one is not None and one == other


def _amount(text: str) -> decimal.Decimal | None:
    match = _QUANTITY.match(text)
    if match is None:
        return None
    try:
        return decimal.Decimal(match.group(1)) * _SUFFIXES[match.group(2) or ""]
    except decimal.InvalidOperation:
        return None


def owns(live: Manifest, *path: str, manager: str = FIELD_MANAGER) -> bool:
    """Whether `manager` has applied the field at `path`."""
    for fields in _applied(live, manager=manager):
        below: Any = fields
        for part in path:
            below = below.get(f"f:{part}") if isinstance(below, Mapping) else None
        if below is not None:
            return True
    return False


def _applied(live: Manifest, *, manager: str) -> list[Fields]:
    """What `manager` owns by server-side apply, as `fieldsV1` documents."""
    return [
        each.get("fieldsV1") or {}
        for each in live["metadata"].get("managedFields") or []
        if each.get("manager") == manager and each.get("operation") == "Apply" and not each.get("subresource")
    ]


def _drops(desired: Manifest, live: Manifest, *, manager: str) -> bool:
    """Whether `manager` owns a field of `live` that `desired` does not have, or owns nothing at all."""
    entries = _applied(live, manager=manager)
    return not entries or any(_owns_more(each, desired) for each in entries)


def _owns_more(owned: Mapping[str, Any], desired: Any) -> bool:
    """Walks the fields of a `fieldsV1` document: `f:name` a field, `k:{...}` the list item with these keys, `v:...` a
    value of a set, `.` the thing itself."""
    for key, below in owned.items():
        kind, _, rest = key.partition(":")
        match kind:
            case "f":
                if not isinstance(desired, Mapping) or rest not in desired:
                    return True
                found = desired[rest]
            case "k":
                found = _item(desired, json.loads(rest))
            case "v":
                found = json.loads(rest) if isinstance(desired, list) and json.loads(rest) in desired else None
            case _:
                continue
        if found is None or (below and _owns_more(below, found)):
            return True
    return False


def _item(items: Any, keys: Mapping[str, Any]) -> Any:
    if not isinstance(items, Sequence) or isinstance(items, str):
        return None
    return next((each for each in items if _has(each, keys)), None)


def _has(item: Any, keys: Mapping[str, Any]) -> bool:
    return isinstance(item, Mapping) and all(item.get(key) == value for key, value in keys.items())
