"""What the inspect role answers for each kind of source, and that errors are answers."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import subprocess
import sys
from typing import Any

import pytest
from tests.unit.milliner.model.sources import file_server, models_to_serve

from milliner.contract import facts, kinds, role_config, sources
from milliner.demo import assets
from milliner.model import digest, tokenizer_digest
from milliner.model.sources import retries
from milliner.roles import inspecting, places

NO_PAUSE = retries.RetryPolicy(sleep=lambda seconds: None)


def inspect(config: facts.InspectConfig, *, hub_url: str = "") -> facts.InspectedFacts:
    at = places.from_environment({"HF_ENDPOINT": hub_url})
    return inspecting.inspect(config, dataclasses.replace(at, retry=NO_PAUSE))


def config_of(source: str | None, *, path: str = "/nowhere/model", **more: Any) -> facts.InspectConfig:
    files = {name: more.pop(name) for name in ("credentials_file",) if name in more}
    return facts.InspectConfig(
        topology="chat",
        key="k",
        strategy=more.pop("strategy", kinds.StrategyType.HAT),
        model=role_config.ModelFiles(path=path, served_name="chat", dtype=kinds.Dtype.AUTO, source=source, **files),
        **more,
    )


def test_the_demo_model_and_its_adapter() -> None:
    found = inspect(config_of("builtin://demo", drafter_source="builtin://demo"))
    assert found.error is None
    assert (found.layers, found.hidden_size, found.dtype) == (8, 256, kinds.Dtype.BFLOAT16)
    assert found.digest == digest.model_digest(assets.model_dir()) == found.drafter_model_digest
    assert (found.drafter_kind, found.drafter_split, found.max_positions) == ("adapter", 2, 4096)
    card = json.loads((assets.adapter_dir() / "adapter.json").read_text())
    assert found.drafter_acceptance_percent == round(100 * card["figures"]["expected_acceptance"])


def test_the_tokenizer_is_told_where_tiers_exchange_token_ids() -> None:
    found = inspect(config_of("builtin://demo", strategy=kinds.StrategyType.PD_DEVICE))
    assert found.tokenizer_digest == tokenizer_digest.tokenizer_digest(assets.model_dir())
    assert inspect(config_of("builtin://demo")).tokenizer_digest is None


def test_heads_fit_every_split() -> None:
    wanted = config_of("builtin://demo", drafter_source="builtin://demo", strategy=kinds.StrategyType.U_SHAPE)
    found = inspect(wanted)
    assert (found.drafter_kind, found.drafter_split) == ("heads", None)


@pytest.mark.parametrize("sharded", [True, False], ids=["shards", "one file"])
def test_a_model_behind_http_has_the_digest_that_it_has_here(tmp_path: pathlib.Path, sharded: bool) -> None:
    model = models_to_serve.save(tmp_path / "model", tied=False, sharded=sharded)
    with file_server.FileServer(model).running() as server:
        server.break_after_bytes = [70_000] * 4
        far = inspect(config_of(server.url))
    near = inspect(config_of(None, path=str(model)))
    assert far.error is None
    assert far.digest == near.digest == digest.model_digest(model)
    assert far.layers == near.layers == 4
    assert far.fingerprint


def test_the_hubs_mirror_and_a_token_from_a_secret(tmp_path: pathlib.Path) -> None:
    model = models_to_serve.save(tmp_path / "model", tied=True, sharded=False)
    secret = tmp_path / "token"
    secret.write_text("secret\n")
    with file_server.FileServer(model, token="secret").running() as server:
        wanted = config_of("hf://org/name@v1", credentials_file=str(secret))
        found = inspect(wanted, hub_url=server.url)
        refused = inspect(config_of("hf://org/name@v1"), hub_url=server.url)
    assert found.error is None
    assert found.digest == digest.model_digest(model)
    assert refused.error is not None
    assert (refused.error.reason, refused.error.field) == ("ModelNotFound", "spec.model.source")
    assert "model.credentialsSecretRef" in refused.error.message


def test_a_drafters_host_is_not_shown_the_models_token(tmp_path: pathlib.Path) -> None:
    model = models_to_serve.save(tmp_path / "model", tied=True, sharded=False)
    secret = tmp_path / "token"
    secret.write_text("secret")
    with (
        file_server.FileServer(model, token="secret").running() as server,
        file_server.FileServer(assets.adapter_dir()).running() as other,
    ):
        wanted = config_of(server.url, credentials_file=str(secret), drafter_source=other.url)
        assert inspect(wanted).error is None
    assert {sent for _, sent in other.requests} == {""}


CASES = {
    "no host": ("http://127.0.0.1:9", "could not be had in 8 attempts"),
    "no folder": ("pvc://models/nothing", "no folder of the claim"),
    "no scheme": ("s3://bucket/model", "starts with s3://, which is unknown"),
    "unknown builtin": ("builtin://other", "builtin://other is unknown: use builtin://demo"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_source_that_cannot_be_used_is_an_answer(case: str) -> None:
    source, message = CASES[case]
    found = inspect(config_of(source))
    assert found.error is not None
    assert message in found.error.message
    assert (found.error.reason, found.error.field) == ("ModelNotFound", "spec.model.source")
    assert facts.parse_line(found.to_line()) == found


def test_defects_of_a_served_folder(tmp_path: pathlib.Path) -> None:
    model = models_to_serve.save(tmp_path / "model", tied=True, sharded=True)

    def message(source: str) -> str:
        found = inspect(config_of(source))
        assert found.error is not None
        return found.error.message

    with file_server.FileServer(model).running() as server:
        assert "there is no config.json" in message(f"{server.url}/elsewhere")
        server.ranges = False
        assert "use a server that honours HTTP Range" in message(server.url)
        server.ranges = True
        shard = sorted(model.glob("*.safetensors"))[1]
        content = shard.read_bytes()
        shard.write_bytes(content[: len(content) // 2])
        assert "it is cut short, upload it again" in message(server.url)
        shard.write_bytes(b"<html>not found</html>")
        assert "does not begin like a safetensors file" in message(server.url)
        shard.unlink()
        assert f"{shard.name} at {server.url} is not there (404)" in message(server.url)
        index = model / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": {"a": "../../etc/passwd"}}))
        assert "names the file '../../etc/passwd', which is no file of the folder" in message(server.url)


def test_families_and_drafters_that_do_not_fit_are_the_specs_fault(tmp_path: pathlib.Path) -> None:
    model = models_to_serve.save(tmp_path / "model", tied=True, sharded=False)
    raw = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**raw, "model_type": "mamba"}))
    foreign = inspect(config_of(None, path=str(model)))
    heads = inspect(config_of("builtin://demo", drafter_path=str(assets.medusa_dir())))
    assert foreign.error is not None and heads.error is not None
    assert "'mamba' cannot be sliced exactly" in foreign.error.message
    assert "holds kind 'medusa' where 'adapter' is needed" in heads.error.message
    assert {foreign.error.reason, heads.error.reason} == {"SpecInvalid"}
    assert heads.error.field == "spec.strategy.hat.adapter.source"


def test_the_longest_message_fits_the_termination_log() -> None:
    found = inspect(config_of("s3://" + "ä" * 2000))
    assert found.error is not None
    assert len(found.to_line().encode()) <= facts.MAX_LINE_BYTES


def test_the_process_answers_at_once_and_without_torch(tmp_path: pathlib.Path) -> None:
    path, out = tmp_path / "config.json", tmp_path / "termination-log"
    path.write_text(config_of("builtin://demo", drafter_source="builtin://demo").to_json())
    out.touch()
    program = (
        "import pathlib, sys; from milliner.roles import inspecting; "
        "status = inspecting.run(pathlib.Path(sys.argv[1]), environment={}, out=pathlib.Path(sys.argv[2])); "
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules; sys.exit(status)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(path), str(out)], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    assert out.read_text() == run.stdout.strip()
    assert facts.parse_line(out.read_text()).layers == 8


def test_a_wrong_configuration_is_no_answer(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"role": "inspect", "topology": "chat"}')
    run = subprocess.run(
        [sys.executable, "-m", "milliner.roles", "inspect", "--config", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (run.returncode, run.stdout) == (2, "")
    assert f"{path}: " in run.stderr and "key" in run.stderr


FIRST, SECOND = "a" * 40, "b" * 40


def test_what_was_inspected_is_fetched_whatever_is_uploaded_since(tmp_path: pathlib.Path) -> None:
    """A pod that started after an upload found other files than were inspected, and refused them."""
    models = [
        models_to_serve.save(tmp_path / name, tied=tied, sharded=False) for name, tied in (("1", True), ("2", False))
    ]
    with file_server.FileServer(models[0], commits={"main": FIRST}).running() as server:
        server.uploads = {SECOND: models[1]}
        found = inspect(config_of("hf://org/name"), hub_url=server.url)
        assert (found.error, found.model_commit, found.drafter_commit) == (None, FIRST, "")
        server.commits = {"main": SECOND}
        again = inspect(config_of(sources.pinned("hf://org/name", FIRST)), hub_url=server.url)
        assert (again.digest, again.fingerprint) == (found.digest, found.fingerprint)
        newer = inspect(config_of("hf://org/name"), hub_url=server.url)
        assert (newer.model_commit, newer.digest) == (SECOND, digest.model_digest(models[1]))


def test_an_upload_in_the_middle_of_an_inspection_is_an_error(tmp_path: pathlib.Path) -> None:
    model = models_to_serve.save(tmp_path / "model", tied=True, sharded=False)

    class Moving(dict[str, str]):
        """Another commit at each look."""

        def get(self, key: str, default: Any = None) -> Any:
            self[key] = SECOND if super().get(key) == FIRST else FIRST
            return self[key]

    with file_server.FileServer(model, commits=Moving(main=FIRST)).running() as server:
        found = inspect(config_of("hf://org/name"), hub_url=server.url)
    assert found.error is not None and "changed while it was being read" in found.error.message


def test_the_commit_of_a_drafter_is_told_too(tmp_path: pathlib.Path) -> None:
    with file_server.FileServer(assets.adapter_dir(), commits={"main": FIRST}).running() as server:
        found = inspect(config_of("builtin://demo", drafter_source="hf://org/adapter"), hub_url=server.url)
    assert (found.error, found.model_commit, found.drafter_commit) == (None, "", FIRST)
