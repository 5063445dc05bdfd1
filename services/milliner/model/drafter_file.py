"""Adapter and Medusa files: a folder with `adapter.safetensors` and `adapter.json`, bound to one model and split.

The card (`adapter.json`) says what the weights are, which model and split they were trained for, and how well they
draft. Loading beside another model, split or kind raises `DrafterMismatch` with what was found and expected: a drafter
of another model would still give right answers, only slowly, and nobody would learn why.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import safetensors
import torch
from safetensors import torch as safetensors_torch
from torch import nn

from milliner.core import errors
from milliner.model import adapter as adapters
from milliner.model import drafter_card, medusa

Drafter = TypeVar("Drafter", bound=nn.Module)

CARD_FILE = drafter_card.CARD_FILE
WEIGHTS_FILE = drafter_card.WEIGHTS_FILE
DrafterKind = drafter_card.DrafterKind
Figures = drafter_card.Figures
Card = drafter_card.Card


def save(folder: Path, drafter: adapters.Adapter | medusa.MedusaHeads, card: Card) -> None:
    """Writes the folder; weights in the card's dtype."""
    folder.mkdir(parents=True, exist_ok=True)
    dtype: torch.dtype = getattr(torch, card.dtype)
    tensors = {name: t.detach().to("cpu", dtype).contiguous() for name, t in drafter.state_dict().items()}
    safetensors_torch.save_file(tensors, str(folder / WEIGHTS_FILE), metadata={"format": "pt"})
    (folder / CARD_FILE).write_text(card.model_dump_json(indent=2) + "\n", encoding="utf-8")


def sizes_of(drafter: adapters.Adapter | medusa.MedusaHeads) -> dict[str, int | float | str]:
    """The drafter's configuration as the card holds it."""
    return {name: value for name, value in dataclasses.asdict(drafter.config).items() if name != "form"}


def read_card(folder: Path) -> Card:
    """The card of a folder; raises `ConfigError` naming the file that is missing or malformed, or its field."""
    path = folder / CARD_FILE
    try:
        return Card.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise errors.ConfigError(
            f"cannot be read ({error.strerror}): name a folder that `milliner train-adapter` wrote", field=str(path)
        ) from error
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "content"
        raise errors.ConfigError(f"{where}: {first['msg']}; train the drafter again", field=str(path)) from error


def load_adapter(
    folder: Path,
    *,
    model_digest: str,
    split_layer: int | None = None,
    dtype: torch.dtype = torch.float32,
    torch_device: torch.device | None = None,
) -> adapters.Adapter:
    """The adapter of a folder, ready to draft.

    `split_layer` None takes the card's. Raises `DrafterMismatch` (*expected*) for another model, split or kind, and
    `ConfigError` for a damaged folder.
    """
    card = read_card(folder)
    _check_kind(folder, card, DrafterKind.ADAPTER)
    check_model(folder, card, model_digest=model_digest)
    if split_layer is not None and card.split_layer != split_layer:
        raise errors.DrafterMismatch(
            f"{folder} was trained for split layer {card.split_layer} and the topology splits at {split_layer}: set "
            f"splitLayer to {card.split_layer}, or train an adapter with --split-layer {split_layer}",
            field="split_layer",
        )
    try:
        form = adapters.AdapterForm(card.form)
    except ValueError:
        known = ", ".join(adapters.AdapterForm)
        raise errors.DrafterMismatch(f"{folder} is of form {card.form!r}; known: {known}", field="form") from None
    drafter = adapters.Adapter(_config(folder, adapters.AdapterConfig, card, form=form))
    return _filled(drafter, folder, dtype, torch_device)


def load_medusa(
    folder: Path,
    *,
    model_digest: str,
    dtype: torch.dtype = torch.float32,
    torch_device: torch.device | None = None,
) -> medusa.MedusaHeads:
    """The Medusa heads of a folder; they fit every split of their model. Errors as in `load_adapter`."""
    card = read_card(folder)
    _check_kind(folder, card, DrafterKind.MEDUSA)
    check_model(folder, card, model_digest=model_digest)
    return _filled(medusa.MedusaHeads(_config(folder, medusa.MedusaConfig, card)), folder, dtype, torch_device)


def check_model(folder: Path, card: Card, *, model_digest: str) -> None:
    """Raises `DrafterMismatch` unless the card names this model."""
    if card.model_digest != model_digest:
        raise errors.DrafterMismatch(
            f"{folder} was trained for model {card.model_digest} and the model here is {model_digest}: name the "
            "drafter of this model, or train one with `milliner train-adapter`",
            field="model_digest",
        )


def _check_kind(folder: Path, card: Card, expected: DrafterKind) -> None:
    if card.kind is not expected:
        raise errors.DrafterMismatch(
            f"{folder} holds kind {card.kind.value!r} and {expected.value!r} is needed: train one with "
            f"`milliner train-adapter --kind {expected.value}`",
            field="kind",
        )


def _config(folder: Path, config_class: Any, card: Card, **more: Any) -> Any:
    try:
        return config_class(**card.sizes, **more)
    except TypeError as error:
        raise errors.ConfigError(
            f"sizes do not fit {card.form}: {error}; train the drafter again", field=str(folder / CARD_FILE)
        ) from error


def _filled(drafter: Drafter, folder: Path, dtype: torch.dtype, torch_device: torch.device | None) -> Drafter:
    path = folder / WEIGHTS_FILE
    try:
        tensors = safetensors_torch.load_file(str(path))
        drafter.load_state_dict(tensors)
    except (OSError, safetensors.SafetensorError) as error:
        raise errors.ConfigError(
            f"is missing or damaged ({error}): train the drafter again", field=str(path)
        ) from error
    except RuntimeError as error:
        raise errors.ConfigError(f"does not fit its card: {error}", field=str(path)) from error
    return drafter.to(torch_device or torch.device("cpu"), dtype).eval().requires_grad_(False)
