"""Where a topology's Secrets are without a cluster: files `secrets/NAME/KEY` beside the topology, as a cluster mounts
them. Only paths are handed on; who needs a Secret reads it."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from milliner.contract import errors, fields

FOLDER = "secrets"


def find(wanted: fields.SecretKeyRef, *, field: str, relative_to: Sequence[pathlib.Path]) -> pathlib.Path:
    """The file of a key, looked for under each of `relative_to` in turn. Raises `SpecInvalid` (*expected*)."""
    places = [folder.absolute() / FOLDER / wanted.name / wanted.key for folder in relative_to]
    for place in places:
        if place.is_file():
            return place
    looked = ", ".join(map(str, dict.fromkeys(places)))
    message = f"Secret {wanted.name} has no key {wanted.key} here: write it into a file (looked at {looked})"
    raise errors.SpecInvalid([errors.Problem(field, message)])
