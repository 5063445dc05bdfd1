"""Without the extra `runtime` a command that computes says what to install; a missing module of ours is a bug."""

from __future__ import annotations

import pytest

from milliner.cli import main


def fail_with(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def app(**_: object) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(main, "app", app)


def test_a_missing_runtime_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fail_with("torch.nn", monkeypatch)
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: torch is not installed; this command computes and needs the runtime: pip install")


def test_a_missing_module_of_ours_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with("milliner.absent", monkeypatch)
    with pytest.raises(ModuleNotFoundError):
        main.main()
