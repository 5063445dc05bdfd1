"""A role that ends for an error leaves it where Kubernetes looks, so that the topology's status can show it."""

from __future__ import annotations

import pathlib

import pytest

from milliner.roles import __main__ as roles_main
from milliner.roles import last_words


def test_a_role_says_why_it_ended(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, out = tmp_path / "config.json", tmp_path / "termination-log"
    config.write_text('{"role": "cloud", "topology": "chat"}')
    out.touch()
    monkeypatch.setattr(last_words, "TERMINATION_LOG", out)
    assert roles_main._run("cloud", config) == roles_main.EXIT_WRONG_CONFIGURATION
    said = out.read_text()
    assert "name: is required" in said and "\n" not in said


def test_outside_a_container_nothing_is_written(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_words, "TERMINATION_LOG", tmp_path / "none")
    last_words.leave("why")
    assert not list(tmp_path.iterdir())


def test_a_long_message_fits_what_kubernetes_reads(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "termination-log"
    out.touch()
    monkeypatch.setattr(last_words, "TERMINATION_LOG", out)
    last_words.leave("line\n" + "𝄞" * 3000)
    assert len(out.read_bytes()) <= 4096
    assert out.read_text().startswith("line 𝄞")


def test_a_file_that_cannot_be_written_is_no_error(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(last_words, "TERMINATION_LOG", tmp_path)  # a folder
    last_words.leave("why")
    assert "cannot be written" in caplog.text
