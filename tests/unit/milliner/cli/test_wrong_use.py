"""Wrong topologies and options: exit status 2, one line that names the field and what to write, never a traceback.

Nothing is started: all of this is found before the first process. `main` itself runs, as the console script does.
"""

from __future__ import annotations

import errno
import json
import pathlib
import re
import socket
import subprocess
import sys

import pytest

from milliner.cli import main
from milliner.local import packages

TOPOLOGY = """\
apiVersion: milliner.dev/v1alpha1
kind: InferenceTopology
metadata: {{name: chat}}
spec:
  model: {{source: model}}
  strategy: {strategy}
  devicePools: [{{name: pool, replicas: 1}}]
"""


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A working directory with a model folder whose configuration can be read, and no topology running."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 4}))
    return tmp_path


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit status and standard error, line breaks of the terminal's width undone."""
    monkeypatch.setattr(sys, "argv", ["milliner", *arguments])
    with pytest.raises(SystemExit) as ended:
        main.main()
    stderr = capsys.readouterr().err
    assert "Traceback" not in stderr
    code = ended.value.code
    assert isinstance(code, int)
    return code, stderr


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ("{type: UShape, uShape: {splitLayer: 4}}", "splitLayer is 4, the model has 4 layers: use 1 to 3"),
        ("{type: UShape, uShape: {split: 2}}", "spec.strategy.uShape.split: unknown field, did you mean splitLayer?"),
        ("{type: Hat}", "spec.strategy.hat.adapter: .* train one with milliner train-adapter"),
        ("{type: Hat, hat: {adapter: {source: nowhere}}}", "spec.strategy.hat.adapter.source: no folder 'nowhere'"),
        ("{type: Hat, hat: {adapter: {source: model}}}", "adapter.json cannot be read .* train-adapter"),
        ("{type: UShape, hat: {}}", "strategy.hat is set but strategy.type is UShape"),
        ("{type: CloudOnly, uShape: {}}", "strategy.uShape is set but strategy.type is CloudOnly"),
    ],
)
def test_topologies_are_refused_with_the_field_and_the_remedy(
    strategy: str,
    message: str,
    folder: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (folder / "t.yaml").write_text(TOPOLOGY.format(strategy=strategy))
    status, stderr = run(["up", "-f", "t.yaml"], monkeypatch, capsys)
    assert status == 2
    assert re.search(message, stderr)
    assert stderr.startswith("error: ")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "config.json is not JSON"),
        ("[]", "config.json holds no object"),
        ("{}", "config.json has no num_hidden_layers"),
        (None, "config.json cannot be read"),
    ],
)
def test_model_folders_are_refused_with_the_file(
    config: str | None,
    message: str,
    folder: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = folder / "model" / "config.json"
    path.unlink()
    if config is not None:
        path.write_text(config)
    (folder / "t.yaml").write_text(TOPOLOGY.format(strategy="{type: UShape}"))
    status, stderr = run(["up", "-f", "t.yaml"], monkeypatch, capsys)
    assert status == 2
    assert f"spec.model.source: {folder / 'model'}" in stderr
    assert message in stderr


def test_a_busy_port_is_named(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "t.yaml").write_text(TOPOLOGY.format(strategy="{type: UShape}"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, stderr = run(["up", "-f", "t.yaml", "--device-port", str(port)], monkeypatch, capsys)
    assert status == 2
    assert f"--device-port: port {port} on 127.0.0.1 is in use" in stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["up", "-f", "absent.yaml"], "absent.yaml: no such file"),
        (["up", "-f", "t.yaml", "--time-scale", "0"], "--time-scale: time scale 0.0 is out of range"),
        (["up", "-f", "t.yaml", "--name", "other"], "--name: the file holds no topology 'other', only chat"),
        (["generate", "hello", "--name", "chat"], "--name: chat does not run here (running: none)"),
        (["generate", "hello", "--url", "http://127.0.0.1:9"], "device at http://127.0.0.1:9 cannot be reached"),
        (["generate", "hello", "--url", "127.0.0.1:9"], "--url: '127.0.0.1:9' is no URL of a device: write http://"),
        (["generate", "hello", "--url", "http://127.0.0.1:99999"], "is no URL of a device: write http://HOST:PORT"),
        (["generate", "hello", "--url", "http://"], "--url: 'http://' is no URL of a device"),
        (["generate", "hello", "--url", "http://127.0.0.1:9", "-f", "t.yaml"], "--topology: cannot go with --url"),
        (["chat", "--url", "ftp://device"], "--url: 'ftp://device' is no URL of a device"),
        (["generate", ""], "PROMPT: is empty: give a text"),
        (["up", "t.yaml"], "FILE: comes with -f: milliner up -f t.yaml"),
        (["up", "-f", "."], ".: is a folder: name a file in it"),
        (["up", "-f", "empty.yaml"], "empty.yaml: holds no document"),
    ],
)
def test_options_are_refused(
    arguments: list[str],
    message: str,
    folder: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (folder / "t.yaml").write_text(TOPOLOGY.format(strategy="{type: UShape}"))
    (folder / "empty.yaml").write_text("---\n")
    status, stderr = run(arguments, monkeypatch, capsys)
    assert status == (1 if "reached" in message else 2)
    assert message in stderr


def test_what_the_system_refuses_is_one_line(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/models/demo")

    monkeypatch.setattr(main, "app", fail)
    status, stderr = run(["doctor"], monkeypatch, capsys)
    assert status == 1
    assert stderr.startswith("error: /models/demo: Permission denied (milliner --debug shows where")


@pytest.mark.parametrize("command", [["up"], ["generate", "hello"]])
def test_notes_come_first_and_an_absent_runtime_starts_nothing(
    command: list[str], folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(packages, "RUNTIME", {"nowhere": "grpcio"})
    text = TOPOLOGY.format(strategy="{type: UShape}") + "  tracing: {samplingPercent: 50}\n"
    (folder / "t.yaml").write_text(text)
    status, stderr = run([*command, "-f", "t.yaml"], monkeypatch, capsys)
    assert status == 2
    note, *others, error = stderr.splitlines()
    assert note.startswith("note: tracing has no effect here: ")
    assert all(other.startswith("note: port ") for other in others)  # where this machine's 8080 is taken
    assert error.startswith("error: not installed: grpcio; its processes need them: pip install 'milliner[runtime]'")
    assert list((folder / "milliner").glob("*")) == []


def test_too_many_processes_for_one_machine_are_refused(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = TOPOLOGY.format(strategy="{type: UShape}")
    (folder / "t.yaml").write_text(text.replace("replicas: 1", "replicas: 9999"))
    status, stderr = run(["up", "-f", "t.yaml"], monkeypatch, capsys)
    assert status == 2
    assert "chat has 10000 replicas in all, each a process here: use at most 64" in stderr


def test_one_name_in_two_namespaces_is_refused(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = TOPOLOGY.format(strategy="{type: UShape}")
    (folder / "t.yaml").write_text(text + "---\n" + text.replace("{name: chat}", "{name: chat, namespace: other}"))
    status, stderr = run(["up", "-f", "t.yaml"], monkeypatch, capsys)
    assert status == 2
    assert "metadata.name: chat is used by topologies of several namespaces" in stderr


def test_debug_shows_the_traceback(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["milliner", "--debug", "up", "-f", "absent.yaml"])
    with pytest.raises(Exception, match="no such file"):
        main.main()


def test_help_answers_without_torch() -> None:
    """The budget of one second is for people; here only what costs it is asserted."""
    code = (
        "import sys\n"
        "from milliner.cli import main\n"
        "sys.argv = ['milliner', '--help']\n"
        "try:\n    main.main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'numpy', 'grpc'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    for command in ("up", "generate", "chat", "demo", "bench", "train-adapter", "slice", "doctor"):
        assert f" {command} " in result.stdout
