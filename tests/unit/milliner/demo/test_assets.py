"""What ships: one model with drafters that belong to it, held-out text that holds the bench's prompts, within 32 MB."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest
import torch

from milliner.demo import assets, tokenizer
from milliner.model import checkpoint, digest, drafter_file

ROOT = assets.model_dir().parent
LIMIT_BYTES = 32_000_000  # docs/algorithms.md, targets
PROMPT_AND_ANSWER_TOKENS = 2048 + 64  # likewise


def test_all_of_it_is_small_enough() -> None:
    assert sum(path.stat().st_size for path in ROOT.rglob("*") if path.is_file()) <= LIMIT_BYTES


def test_the_models_that_ship_share_tokenizer_and_form() -> None:
    shipped = assets.models()
    assert set(shipped) == {"demo", "recall"}
    assert (shipped["recall"] / "tokenizer.json").read_bytes() == (shipped["demo"] / "tokenizer.json").read_bytes()
    opened = {name: checkpoint.Checkpoint.open(folder) for name, folder in shipped.items()}
    assert opened["recall"].hidden_size == opened["demo"].hidden_size
    assert opened["recall"].num_layers < opened["demo"].num_layers


@pytest.mark.parametrize("form", assets.FORMS)
def test_adapters_belong_to_the_model(form: str) -> None:
    folder = assets.adapter_dir(form)
    made = drafter_file.load_adapter(folder, model_digest=digest.model_digest(assets.model_dir()))
    assert made.config.form.value == form
    assert made.config.hidden_size == checkpoint.Checkpoint.open(assets.model_dir()).hidden_size
    assert all(torch.isfinite(tensor).all() for tensor in made.state_dict().values())


def test_medusa_heads_belong_to_the_model() -> None:
    heads = drafter_file.load_medusa(assets.medusa_dir(), model_digest=digest.model_digest(assets.model_dir()))
    assert heads.config.num_heads >= 4


def test_the_default_form_drafts_best() -> None:
    lengths = {}
    for form in assets.FORMS:
        figures = drafter_file.read_card(assets.adapter_dir(form)).figures
        assert figures is not None
        lengths[form] = figures.acceptance_length
    assert max(lengths, key=lambda form: lengths[form]) == assets.DEFAULT_FORM == assets.FORMS[0]


def test_every_document_holds_the_longest_prompt_and_its_answer() -> None:
    texts = assets.heldout_texts()
    assert len(texts) >= 10
    vocabulary = tokenizer.load(assets.model_dir())
    for path in texts:
        assert len(vocabulary.encode(path.read_text(encoding="utf-8")).ids) >= PROMPT_AND_ANSWER_TOKENS, path.name


def test_every_document_is_recorded_as_held_out() -> None:
    recorded = json.loads((ROOT / "corpus.json").read_text())["held_out"]
    names = {name.replace("/", "-").removesuffix(".py") + ".txt" for name in recorded}
    assert {path.name for path in assets.heldout_texts()} <= names


def test_unknown_forms_are_a_bug() -> None:
    with pytest.raises(KeyError, match="Tree"):
        assets.adapter_dir("Tree")


def test_asking_where_assets_lie_needs_no_torch() -> None:
    source = str(pathlib.Path(assets.__file__).parents[3])
    code = f"import sys; sys.path.insert(0, {source!r}); import milliner.demo.assets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
