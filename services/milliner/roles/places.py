"""Where a role finds the kinds of sources, the token for them, and how it tells of progress. Torch-free."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
import time
from collections.abc import Mapping

from milliner.contract import role_config
from milliner.core import errors
from milliner.demo import assets
from milliner.model.sources import opening

HUB_VARIABLE = "HF_ENDPOINT"  # environment: a mirror of the hub, as the hub's own tools understand it
_PROGRESS_S = 10.0  # arbitrary: a few lines for a large model
_LOGGER = logging.getLogger("milliner.roles")


def from_environment(environment: Mapping[str, str]) -> opening.Places:
    """Where sources are; `builtin://` ones are the models that ship."""
    hub_url = environment.get(HUB_VARIABLE) or opening.HUB_URL
    return opening.Places(hub_url=hub_url, builtin=assets.models())


def for_drafter(at: opening.Places, folder: pathlib.Path) -> opening.Places:
    """The same, with `builtin://demo` for a drafter's folder."""
    return dataclasses.replace(at, builtin={"demo": folder})


def token(model: role_config.ModelFiles) -> str | None:
    """The token for the model's source; raises `ConfigError` (*expected*) where its file cannot be read."""
    if model.credentials_file is None:
        return None
    try:
        return pathlib.Path(model.credentials_file).read_text(encoding="utf-8").strip() or None
    except (OSError, ValueError) as error:
        raise errors.ConfigError(
            f"{model.credentials_file} cannot be read ({error}): check the Secret of model.credentialsSecretRef",
            field="model.credentialsFile",
        ) from None


def drafter_token(source: str, model: role_config.ModelFiles, at: opening.Places) -> str | None:
    """The model's token where the drafter lies at the same host; no other host is shown it."""
    found = token(model)
    return found if found and model.source and opening.same_host(source, model.source, at) else None


class Progress:
    """Logs how much of something has come, every few seconds; `on_bytes` is called by one thread at a time."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._next_s = time.monotonic() + _PROGRESS_S

    def on_bytes(self, done: int, total: int) -> None:
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + _PROGRESS_S
            _LOGGER.info("%s: %.0f of %.0f MB", self._what, done / 1e6, total / 1e6)
