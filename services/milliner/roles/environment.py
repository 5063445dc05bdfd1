"""What the environment says of a role: its configuration is shared by all replicas, name and revision are each one's.

In a cluster the pod's own fields come as environment variables; elsewhere nothing is set and nothing changes. Pure;
`__main__` is the only caller.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from milliner.contract import base, role_config

NAME_VARIABLE = "MILLINER_NAME"
REVISION_VARIABLE = "MILLINER_REVISION"

Config = TypeVar("Config", bound=role_config.RoleConfig)


def lay_over(config: Config, environ: Mapping[str, str]) -> Config:
    """The configuration with the name and revision of the environment; raises `SpecInvalid` (*expected*)."""
    given = {"name": environ.get(NAME_VARIABLE, ""), "revision": environ.get(REVISION_VARIABLE, "")}
    known = {field: value for field, value in given.items() if value}
    if not known:
        return config
    return base.parse(type(config), config.document() | known, origin=f"{NAME_VARIABLE}, {REVISION_VARIABLE}")
