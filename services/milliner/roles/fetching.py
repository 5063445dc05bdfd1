"""Brings a role's files to it before it starts: its part of the model, its drafter. Configuration in, configuration
out, with folders of this machine; where a configuration names no source it comes back unchanged.

Blocking, on the main thread, before the event loop: nothing is served meanwhile. A restart finds what is there.
"""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from milliner.contract import kinds, role_config, sources
from milliner.core import errors
from milliner.demo import assets
from milliner.model.sources import drafter_fetch, folders, opening
from milliner.roles import places

if TYPE_CHECKING:
    from milliner.model.sources import slice_fetch

MODEL_FIELD = "model.source"
ADAPTER_FIELD = "strategy.hat.adapter.source"
HEADS_FIELD = "strategy.uShape.heads.source"
_LOGGER = logging.getLogger("milliner.roles")

RoleConfig = role_config.Config


def with_local_files(config: RoleConfig, at: opening.Places) -> RoleConfig:
    """The configuration with `path`s that exist, fetched where need be.

    Raises `SourceError`, `UnavailableError`, `ConfigError` or `CheckpointError` (*expected*).
    """
    model = config.model.model_copy(update={"path": _model(config, at)})
    if not isinstance(config, role_config.DeviceRoleConfig):
        return config.model_copy(update={"model": model})
    strategy = config.strategy
    adapter = _drafter(config, strategy.adapter_source, strategy.adapter_path, field=ADAPTER_FIELD, at=at)
    heads = _drafter(config, strategy.heads_source, strategy.heads_path, field=HEADS_FIELD, at=at)
    update = {"adapter_path": adapter, "heads_path": heads}
    return config.model_copy(update={"model": model, "strategy": strategy.model_copy(update=update)})


def _model(config: RoleConfig, at: opening.Places) -> str:
    """The folder of the model."""
    model = config.model
    if model.source is None:
        return model.path
    if not _fetched(model.source, MODEL_FIELD):
        return _local(model.source, at, field=MODEL_FIELD)
    digest, fingerprint = _pinned(model)
    what = f"{model.source}, {_what(config)}"
    folder = opening.open_folder(model.source, at, field=MODEL_FIELD, token=places.token(model))
    try:
        _LOGGER.info("fetching %s", what)
        new = _fetch(config, folder, digest=digest, fingerprint=fingerprint, on_bytes=places.Progress(what).on_bytes)
    finally:
        folder.close()
    _LOGGER.info("%s %s", "fetched" if new else "already here:", what)
    return model.path


def _pinned(model: role_config.ModelFiles) -> tuple[str, str]:
    """Digest and fingerprint of the model."""
    for name, value in (("model.digest", model.digest), ("model.fingerprint", model.fingerprint)):
        if value is None:
            raise errors.ConfigError(
                "is needed where the model is fetched, because no tier sees all of it: python -m milliner.roles "
                "inspect finds it",
                field=name,
            )
    assert model.digest is not None and model.fingerprint is not None
    return model.digest, model.fingerprint


def _fetch(
    config: RoleConfig,
    folder: folders.Folder,
    *,
    digest: str,
    fingerprint: str,
    on_bytes: Callable[[int, int], None],
) -> bool:
    """Makes sure that the files are there; returns False where they were."""
    from milliner.model.sources import slice_fetch, tokenizer_fetch

    out = pathlib.Path(config.model.path)
    if _runs_no_layer(config):
        return tokenizer_fetch.fetch_tokenizer(folder, out, digest=digest, fingerprint=fingerprint)
    wanted = _wanted(config, digest=digest, fingerprint=fingerprint)
    return slice_fetch.fetch_slice(folder, wanted, out, on_bytes=on_bytes)


def _runs_no_layer(config: RoleConfig) -> bool:
    return (
        isinstance(config, role_config.WholeDeviceRoleConfig) and config.strategy.type is kinds.StrategyType.CLOUD_ONLY
    )


def _wanted(config: RoleConfig, *, digest: str, fingerprint: str) -> slice_fetch.WantedSlice:
    from milliner.model.sources import slice_fetch

    if isinstance(config, role_config.CloudRoleConfig):
        return slice_fetch.WantedSlice(
            start=config.slice.start,
            end=config.slice.end,
            embedding=False,
            lm_head=False,
            digest=digest,
            fingerprint=fingerprint,
        )
    if not isinstance(config, role_config.DeviceRoleConfig):
        return slice_fetch.WantedSlice(
            start=0, end=config.layers, embedding=True, lm_head=True, digest=digest, fingerprint=fingerprint
        )
    split = config.split
    return slice_fetch.WantedSlice(
        start=0,
        end=split.split_layer,
        embedding=True,
        lm_head=True,
        tail_start=split.layers - split.tail_layers if split.tail_layers else None,
        digest=digest,
        fingerprint=fingerprint,
    )


def _drafter(
    config: role_config.DeviceRoleConfig, source: str | None, path: str | None, *, field: str, at: opening.Places
) -> str | None:
    """The folder of a drafter."""
    if source is None:
        return path
    builtin = assets.adapter_dir() if field == ADAPTER_FIELD else assets.medusa_dir()
    at = places.for_drafter(at, builtin)
    if not _fetched(source, field):
        return _local(source, at, field=field)
    if path is None:
        raise errors.ConfigError("names a source but no folder to fetch it to", field=field)
    folder = opening.open_folder(source, at, field=field, token=places.drafter_token(source, config.model, at))
    try:
        drafter_fetch.fetch_drafter(folder, pathlib.Path(path), on_bytes=places.Progress(source).on_bytes)
    finally:
        folder.close()
    return path


def _fetched(source: str, field: str) -> bool:
    try:
        return sources.parse(source).fetched
    except ValueError as error:
        raise errors.SourceError(str(error), field=field) from None


def _local(source: str, at: opening.Places, *, field: str) -> str:
    return opening.open_folder(source, at, field=field).where


def _what(config: RoleConfig) -> str:
    if isinstance(config, role_config.CloudRoleConfig):
        return f"layers [{config.slice.start}, {config.slice.end})"
    if _runs_no_layer(config):
        return "its tokenizer and configuration"
    if not isinstance(config, role_config.DeviceRoleConfig):
        return "the whole model"
    return f"layers [0, {config.split.split_layer}) with embedding and lm_head"
