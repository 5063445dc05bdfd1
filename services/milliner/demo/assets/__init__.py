"""Where the shipped demo model, its drafters and its held-out text lie. Torch-free; roles, runner and benches ask.

`milliner.demo` made these files; none of the held-out text was trained on (`heldout/README.md` names its sources).
"""

from __future__ import annotations

import pathlib

DEFAULT_FORM = "LayerWithDeepState"
"""The adapter form that drafts best on held-out text (docs/demo-model.md)."""

FORMS = ("LayerWithDeepState", "Layer", "Attention")
"""The adapter forms that ship."""

_ROOT = pathlib.Path(__file__).resolve().parent


def model_dir() -> pathlib.Path:
    """The demo target: a Hugging Face checkpoint folder with its tokenizer."""
    return _ROOT / "model"


def recall_dir() -> pathlib.Path:
    """A smaller model that quotes what stands far back: what `milliner bench refine` measures with."""
    return _ROOT / "recall"


def models() -> dict[str, pathlib.Path]:
    """The models that ship, by their names as `builtin://` sources."""
    return {"demo": model_dir(), "recall": recall_dir()}


def adapter_dir(form: str = DEFAULT_FORM) -> pathlib.Path:
    """The folder of the demo's adapter of a form; raises KeyError (*bug*) for a form that does not ship."""
    if form not in FORMS:
        raise KeyError(form)
    return _ROOT / "adapter" / form


def medusa_dir() -> pathlib.Path:
    """The folder of the demo's Medusa heads."""
    return _ROOT / "medusa"


def heldout_texts() -> tuple[pathlib.Path, ...]:
    """The held-out documents, each long enough for a bench prompt of 2,048 tokens and its answer, in order of name."""
    return tuple(sorted((_ROOT / "heldout").glob("*.txt")))
