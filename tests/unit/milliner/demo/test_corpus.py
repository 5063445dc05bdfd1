"""The corpus: nothing is on both sides of the split, whoever collects it gets the same one."""

from __future__ import annotations

import gzip
import pathlib

import pytest

from milliner.demo import corpus as corpora


def documents(source: str, count: int) -> list[corpora.Document]:
    return [corpora.Document(name=f"{source}/{i}.py", text=f"{source} {i} " * 50) for i in range(count)]


def test_no_text_is_on_both_sides() -> None:
    twins = [corpora.Document(name=f"copies/{i}", text="the same text") for i in range(40)]
    corpus = corpora.split([*documents("python", 200), *documents("bible", 60), *twins])
    held_out = {document.text for document in corpus.held_out}
    trained = {document.text for document in corpus.train}
    assert held_out
    assert not held_out & trained
    assert len(held_out) + len(trained) == 261  # copies count once


def test_every_source_is_held_out_in_proportion() -> None:
    corpus = corpora.split([*documents("python", 200), *documents("bible", 60)])
    summary = corpus.summary()
    for source in ("python", "bible"):
        share = summary[source]["held_out_bytes"] / (summary[source]["held_out_bytes"] + summary[source]["train_bytes"])
        assert 0.02 <= share <= 0.04


def test_order_does_not_decide_the_split() -> None:
    ordered = documents("python", 100)
    assert corpora.split(ordered).digest == corpora.split(reversed(ordered)).digest


def test_changed_text_changes_the_digest() -> None:
    ordered = documents("python", 100)
    changed = [*ordered[:-1], corpora.Document(name=ordered[-1].name, text="other")]
    assert corpora.split(ordered).digest != corpora.split(changed).digest


def test_the_standard_library_is_found_without_site_packages() -> None:
    names = [document.name for document in corpora.standard_library()]
    assert "python/json/decoder.py" in names
    assert not any("site-packages" in name for name in names)


def test_dictionaries_are_cut_at_blank_lines(tmp_path: pathlib.Path) -> None:
    entries = [f"entry {i}\n    " + "meaning " * 400 for i in range(30)]
    path = tmp_path / "devil.dict.dz"
    path.write_bytes(gzip.compress("\n\n".join(entries).encode()))
    found = list(corpora.dictionary("devil", path))
    assert len(found) > 1
    assert all(document.text.startswith("entry ") for document in found)
    assert sum(document.text.count("entry ") for document in found) == 30


def test_a_missing_package_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(corpora.CorpusError, match="apt-get install dict-devil"):
        list(corpora.dictionary("devil", tmp_path / "devil.dict.dz"))
    with pytest.raises(corpora.CorpusError, match=r"--text .*missing.txt"):
        list(corpora.extra_texts([tmp_path / "missing.txt"]))
