"""The inspect role: what a topology's sources hold, as one line of JSON for whoever asked. Torch-free, stores nothing.

Reads config.json and headers, every byte of the weights once for the digest, and the drafter's card. What is wrong with
a source is an answer too (`FactsError`), and the process ends well; only a wrong configuration or a bug ends it badly.
"""

from __future__ import annotations

import logging
import pathlib
import sys
from collections.abc import Mapping

from milliner.contract import errors as contract_errors
from milliner.contract import facts, kinds, plan_whole
from milliner.core import errors
from milliner.demo import assets
from milliner.model import config_facts, drafter_card, tokenizer_digest
from milliner.model.sources import drafter_fetch, folders, identity, layout, opening
from milliner.roles import fetching, last_words, places

_MOST_MESSAGE_CHARACTERS = 600  # six bytes each in JSON at worst: the line stays below `facts.MAX_LINE_BYTES`
_MODEL_NOT_FOUND, _SPEC_INVALID = "ModelNotFound", "SpecInvalid"  # reasons of the condition ModelReady
_LOGGER = logging.getLogger("milliner.roles")


def run(path: pathlib.Path, *, environment: Mapping[str, str], out: pathlib.Path = last_words.TERMINATION_LOG) -> int:
    """Reads the configuration, writes the answer to standard output and, where it exists, to `out`."""
    try:
        config = facts.load(path)
    except contract_errors.ContractError as error:
        _LOGGER.error("%s", error)
        return 2
    line = inspect(config, places.from_environment(environment)).to_line()
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
    if out.exists():
        out.write_text(line, encoding="utf-8")
    return 0


def inspect(config: facts.InspectConfig, at: opening.Places) -> facts.InspectedFacts:
    """The facts, or the error that stands in their way."""
    try:
        return _facts(config, at)
    except (errors.SourceError, errors.UnavailableError) as error:
        return _error(config, _MODEL_NOT_FOUND, error)
    except errors.ConfigError as error:
        return _error(config, _SPEC_INVALID, error)


def _facts(config: facts.InspectConfig, at: opening.Places) -> facts.InspectedFacts:
    card, drafter_commit = _card(config, at)  # first: it is small, and the model may be large
    text = config.model.source
    if text is None:
        folder: folders.Folder = folders.LocalFolder(pathlib.Path(config.model.path), field=fetching.MODEL_FIELD)
    else:
        folder = opening.open_folder(text, at, field=fetching.MODEL_FIELD, token=places.token(config.model))
    try:
        model = layout.read(folder)
        layout.check_whole(folder, model)
        found = config_facts.read(model.raw_config, where=folder.where, field=folder.field)
        progress = places.Progress(f"reading {folder.where} for its digest")
        digest = identity.model_digest(folder, model, on_bytes=progress.on_bytes)
        whole = config.strategy in plan_whole.TYPES
        tokenizer = tokenizer_digest.of_files(folder.read) if whole else None  # others exchange hidden states
    finally:
        folder.close()
    figures = card.figures if card is not None else None
    adapter = card is not None and card.kind is drafter_card.DrafterKind.ADAPTER
    return facts.InspectedFacts(
        key=config.key,
        layers=found.num_layers,
        hidden_size=found.hidden_size,
        dtype=found.dtype,
        digest=digest,
        fingerprint=identity.fingerprint(model),
        model_commit=folder.commit,
        drafter_commit=drafter_commit,
        tokenizer_digest=tokenizer,
        drafter_kind=None if card is None else ("adapter" if adapter else "heads"),
        drafter_split=card.split_layer if card is not None and adapter else None,  # heads fit every split
        drafter_acceptance_percent=None if figures is None else round(100 * figures.expected_acceptance),
        drafter_model_digest=None if card is None else card.model_digest,
        max_positions=found.max_positions,
    )


def _card(config: facts.InspectConfig, at: opening.Places) -> tuple[drafter_card.Card | None, str]:
    """The drafter's card and its commit; raises `DrafterMismatch` for one of the other kind than the strategy's."""
    heads = config.strategy is kinds.StrategyType.U_SHAPE
    field = fetching.HEADS_FIELD if heads else fetching.ADAPTER_FIELD
    text, path = config.drafter_source, config.drafter_path
    if text is not None:
        at = places.for_drafter(at, assets.medusa_dir() if heads else assets.adapter_dir())
        token = places.drafter_token(text, config.model, at)
        folder = opening.open_folder(text, at, field=field, token=token)
    elif path is not None:
        folder = folders.LocalFolder(pathlib.Path(path), field=field)
    else:
        return None, ""
    try:
        card = drafter_fetch.read_card(folder)
    finally:
        folder.close()
    expected = drafter_card.DrafterKind.MEDUSA if heads else drafter_card.DrafterKind.ADAPTER
    if card.kind is not expected:
        raise errors.DrafterMismatch(
            f"{field} is {folder.where}, which holds kind {card.kind.value!r} where {expected.value!r} is needed: "
            f"train one with milliner train-adapter --kind {expected.value}",
            field=field,
        )
    return card, folder.commit


def _error(config: facts.InspectConfig, reason: str, error: errors.MillinerError) -> facts.InspectedFacts:
    _LOGGER.error("%s", error)
    message = error.message if len(error.message) <= _MOST_MESSAGE_CHARACTERS else error.message[:599] + "…"
    found = facts.FactsError(reason=reason, field=f"spec.{error.field}", message=message)
    return facts.InspectedFacts(key=config.key, error=found)
