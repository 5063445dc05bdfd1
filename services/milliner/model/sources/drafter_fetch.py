"""Fetches a drafter's folder, card and weights. Which model it is for is checked when it is loaded."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import pydantic

from milliner.core import errors
from milliner.model import drafter_card
from milliner.model.sources import cached, filling, folders, layout, slice_plan


def fetch_drafter(
    folder: folders.Folder,
    out: pathlib.Path,
    *,
    on_bytes: Callable[[int, int], None] = lambda done, total: None,
) -> bool:
    """Makes sure that `out` holds the drafter; returns False where it was there already. Raises as `read_card` does."""

    def make(partial: pathlib.Path) -> None:
        card = read_card(folder)
        (partial / drafter_card.CARD_FILE).write_text(card.model_dump_json(indent=2) + "\n", encoding="utf-8")
        stat = folder.stat(drafter_card.WEIGHTS_FILE)
        layout.read_header(folder, drafter_card.WEIGHTS_FILE, stat)  # cut short or something else: said at once
        plan = slice_plan.whole_file(drafter_card.WEIGHTS_FILE, stat.size_bytes)
        filling.fill(partial / drafter_card.WEIGHTS_FILE, plan, folder, on_bytes=on_bytes)

    return cached.cached(out, {"drafter": folder.where}, make)


def read_card(folder: folders.Folder) -> drafter_card.Card:
    """A drafter's card; raises `SourceError` where there is none, `UnavailableError` out of reach."""
    document = layout.read_json(
        folder, drafter_card.CARD_FILE, remedy="name a folder that `milliner train-adapter` wrote"
    )
    try:
        return drafter_card.Card.model_validate(document)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "content"
        raise errors.SourceError(
            f"{drafter_card.CARD_FILE} at {folder.where}: {where}: {first['msg']}; train the drafter again",
            field=folder.field,
        ) from error
