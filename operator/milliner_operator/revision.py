"""The revision of a role: a hash of its pod template and configuration, stamped on the template. Pure."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Any

from milliner.contract import names

_CHARACTERS = 8


def of(template: dict[str, Any], config: str) -> str:
    """The revision: the same for the same template and configuration, whatever happened in between."""
    text = json.dumps([template, config], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:_CHARACTERS]


def stamp(template: dict[str, Any], config: str) -> tuple[dict[str, Any], str]:
    """A copy of the template with its revision as a label, and the revision."""
    found = of(template, config)
    stamped = copy.deepcopy(template)
    stamped["metadata"]["labels"][names.LABEL_REVISION] = found
    return stamped, found
