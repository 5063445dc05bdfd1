"""`milliner doctor`: what it finds, what it advises, and that a failing check does not hide the others."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

from milliner.cli import main
from milliner.demo import assets
from milliner.local import checks, ports


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["milliner", "doctor", *arguments])
    with pytest.raises(SystemExit) as ended:
        main.main()
    return int(ended.value.code or 0)


def test_findings_as_json_and_as_a_table(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    for name in ("config.json", "tokenizer.json", "adapter.json"):
        (tmp_path / name).write_text("{}")
    monkeypatch.setattr(assets, "model_dir", lambda: tmp_path)
    monkeypatch.setattr(assets, "adapter_dir", lambda: tmp_path)
    assert run(["--json"], monkeypatch) == 0
    findings = {finding["subject"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert findings["python"]["level"] == "ok"
    assert "torch" in findings["packages"]["found"]
    assert findings["state folder"]["found"] == str(tmp_path / "milliner")

    (tmp_path / "adapter.json").unlink()
    assert run(["-f", str(tmp_path / "absent.yaml")], monkeypatch) == 1
    shown = "".join(capsys.readouterr().out.split())  # the table folds long paths
    assert "adapter.json" in shown
    assert "python-mmilliner.demo" in shown
    assert "nosuchfile" in shown


def test_what_has_no_effect_in_a_topology_is_a_warning(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "topology.yaml"
    file.write_text(
        "apiVersion: milliner.dev/v1alpha1\nkind: InferenceTopology\nmetadata: {name: handover}\nspec:\n"
        "  model: {source: builtin://demo}\n  devicePools: [{name: local}]\n"
        "  strategy: {type: PDDevice, pdDevice: {refinement: {minKeepPercent: 20}}}\n"
    )
    assert run(["--json", "-f", str(file)], monkeypatch) == 0
    (found,) = (each for each in json.loads(capsys.readouterr().out) if each["subject"] == "topology")
    assert found["level"] == "warning"
    assert "refinement.minKeepPercent has no effect here" in found["remedy"]


def test_without_the_runtimes_packages_it_says_what_to_install(tmp_path: pathlib.Path) -> None:
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in {'torch', 'transformers', 'grpc', 'uvicorn', 'psutil'}:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "import importlib.util\n"
        "importlib.util.find_spec = lambda name: None\n"
        "from milliner.cli import main\n"
        "sys.argv = ['milliner', 'doctor']\n"
        "main.main()\n"
    )
    environment = os.environ | {"XDG_RUNTIME_DIR": str(tmp_path), "COLUMNS": "200"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1, result.stderr
    assert "absent: torch, transformers, tokenizers, safetensors, numpy, grpcio, " in result.stdout
    assert "pip install 'milliner[runtime]'" in result.stdout


def test_a_check_that_breaks_is_a_finding() -> None:
    def broken() -> checks.Finding:
        raise RuntimeError("boom")

    first, second = checks.run_all({"a": broken, "python": checks.check_python})
    assert (first.level, first.found) == (checks.Level.PROBLEM, "RuntimeError: boom")
    assert second.level is checks.Level.OK


def test_a_taken_port_is_a_warning_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "is_free", lambda host, port: False)
    finding = checks.check_port()
    assert finding.level is checks.Level.WARNING
    assert "--device-port" in finding.remedy


def test_brackets_in_a_remedy_are_shown(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    absent = checks.Finding("packages", checks.Level.PROBLEM, "absent: torch", "pip install 'milliner[runtime]'")
    monkeypatch.setattr(checks, "check_packages", lambda: absent)
    assert run([], monkeypatch) == 1
    assert "milliner[runtime]" in "".join(capsys.readouterr().out.split())
