"""Trains the demo's drafters: adapters of every form and Medusa heads, beside the target that `pretrain` made."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Iterable

from milliner.demo import corpus as corpora
from milliner.demo import tokenizer
from milliner.model import adapter as adapters
from milliner.model import drafter_file, drafter_training

SPLIT_LAYER = 2
"""Layers [0, 2) of 8 run on the device (PAPERS A.1: 2 of 32 at 7B)."""

MEDUSA_HEADS = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Recipe:
    """One drafter: where it goes under `--out`, what it is, and its share of the time for drafters."""

    folder: str
    kind: drafter_file.DrafterKind
    form: adapters.AdapterForm
    time_share: float


RECIPES = (
    Recipe(
        "adapter/LayerWithDeepState", drafter_file.DrafterKind.ADAPTER, adapters.AdapterForm.LAYER_WITH_DEEP_STATE, 0.5
    ),
    Recipe("adapter/Layer", drafter_file.DrafterKind.ADAPTER, adapters.AdapterForm.LAYER, 0.26),
    Recipe("medusa", drafter_file.DrafterKind.MEDUSA, adapters.AdapterForm.LAYER, 0.12),
    Recipe("adapter/Attention", drafter_file.DrafterKind.ADAPTER, adapters.AdapterForm.ATTENTION, 0.12),
)  # shares are arbitrary: the default form gets most


def write_texts(corpus: corpora.Corpus, folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Both sides of the corpus as one file each, documents in the order of their names' hashes, so that kinds mix."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "train.txt", folder / "held_out.txt"
    for path, documents in zip(paths, (corpus.train, corpus.held_out), strict=True):
        path.write_text(tokenizer.END_OF_TEXT.join(_mixed(documents)), encoding="utf-8")
    return paths


def _mixed(documents: Iterable[corpora.Document]) -> list[str]:
    ranked = sorted(documents, key=lambda document: hashlib.sha256(document.name.encode()).hexdigest())
    return [document.text for document in ranked]


def config(
    recipe: Recipe, out: pathlib.Path, texts: tuple[pathlib.Path, pathlib.Path], *, minutes: float
) -> drafter_training.TrainingConfig:
    """The training run of a recipe, `minutes` being the time for all drafters together."""
    return drafter_training.TrainingConfig(
        model=out / "model",
        split_layer=SPLIT_LAYER,
        text=texts[:1],
        held_out=texts[1:],
        out=out / recipe.folder,
        kind=recipe.kind,
        form=recipe.form,
        num_heads=MEDUSA_HEADS,
        steps=100_000,
        max_minutes=minutes * recipe.time_share,
        batch_windows=4,
        window_tokens=512,
        long_tokens=2048,
        learning_rate=1.5e-3,
        resume=True,
    )


def train_all(
    out: pathlib.Path,
    texts: tuple[pathlib.Path, pathlib.Path],
    *,
    minutes: float,
    report: Callable[[str, drafter_training.TrainingProgress], None],
) -> dict[str, drafter_file.Card]:
    """Trains the drafters that are not there yet, one after the other; the card of each folder."""
    cards: dict[str, drafter_file.Card] = {}
    for recipe in RECIPES:
        folder = out / recipe.folder
        if (folder / drafter_file.CARD_FILE).is_file():
            cards[recipe.folder] = drafter_file.read_card(folder)
            continue

        def tell(progress: drafter_training.TrainingProgress, name: str = recipe.folder) -> None:
            report(name, progress)

        cards[recipe.folder] = drafter_training.train(config(recipe, out, texts, minutes=minutes), tell)
    return cards
