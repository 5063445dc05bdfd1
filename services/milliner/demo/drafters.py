"""Trains the demo's drafters: adapters of every form and Medusa heads, beside the target that `pretrain` made."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Iterable

from milliner.demo import corpus as corpora
from milliner.demo import tokenizer
from milliner.model import adapter as adapters
from milliner.model import drafter_config, drafter_file, drafter_training

SPLIT_LAYER = 2
"""Layers [0, 2) of 8 run on the device (as preset paper-wifi's 2 of 32)."""

MEDUSA_HEADS = 4

DRAFT_FOLDER = "draft"
"""Under `--out`: the draft layer of the finish, where the adapters' training starts."""


@dataclasses.dataclass(frozen=True, slots=True)
class Recipe:
    """One drafter: where it goes under `--out`, what it is, its peak learning rate, its share of the drafters' time."""

    folder: str
    kind: drafter_file.DrafterKind
    form: adapters.AdapterForm
    learning_rate: float
    time_share: float


_ADAPTER, _FORM = drafter_file.DrafterKind.ADAPTER, adapters.AdapterForm
RECIPES = (
    Recipe("adapter/LayerWithDeepState", _ADAPTER, _FORM.LAYER_WITH_DEEP_STATE, 4e-3, 0.5),
    Recipe("adapter/Layer", _ADAPTER, _FORM.LAYER, 4e-3, 0.2),
    Recipe("medusa", drafter_file.DrafterKind.MEDUSA, _FORM.LAYER, 1e-2, 0.14),
    Recipe("adapter/Attention", _ADAPTER, _FORM.ATTENTION, 1.5e-2, 0.16),
)  # the forms that go on from the draft layer of the finish take gentler rates; shares are arbitrary


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
) -> drafter_config.TrainingConfig:
    """The training run of a recipe, `minutes` being the time for all drafters together."""
    return drafter_config.TrainingConfig(
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
        learning_rate=recipe.learning_rate,
        start=out / DRAFT_FOLDER if recipe.kind is drafter_file.DrafterKind.ADAPTER else None,
        feature_cache=out / "features.pt",
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
