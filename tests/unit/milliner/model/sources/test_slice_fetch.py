"""A tier fetches its slice and nothing else, goes on after breaks, and refuses files other than those inspected."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import pytest
import torch
from tests.unit.milliner.model.sources import file_server, models_to_serve

from milliner.core import errors
from milliner.model import checkpoint, digest
from milliner.model import slice as slices
from milliner.model.sources import identity, layout, opening, retries, slice_fetch, slice_plan

LAYERS = 4
NO_PAUSE = retries.RetryPolicy(sleep=lambda seconds: None)
PLACES = opening.Places(retry=NO_PAUSE)


def wanted_of(model: pathlib.Path, **bounds: Any) -> slice_fetch.WantedSlice:
    """The device's slice, with what an inspection through the server would have found."""
    base = slice_fetch.WantedSlice(start=0, end=1, embedding=True, lm_head=True, digest="", fingerprint="")
    return dataclasses.replace(base, digest=digest.model_digest(model), **bounds)


def fetch(
    server: file_server.FileServer, wanted: slice_fetch.WantedSlice, out: pathlib.Path, *, source: str = ""
) -> bool:
    folder = opening.open_folder(source or server.url, PLACES, field="model.source")
    try:
        if not wanted.fingerprint:
            wanted = dataclasses.replace(wanted, fingerprint=identity.fingerprint(layout.read(folder)))
            server.sent_bytes.clear()
        return slice_fetch.fetch_slice(folder, wanted, out)
    finally:
        folder.close()


def parameters_of(path: pathlib.Path, spec: slices.SliceSpec) -> dict[str, torch.Tensor]:
    loaded = slices.load_slice(
        checkpoint.Checkpoint.open(path), spec, dtype=torch.float32, torch_device=torch.device("cpu")
    )
    modules = {"embed": loaded.embed_tokens, "norm": loaded.norm, "lm_head": loaded.lm_head}
    found = {
        f"{name}.{key}": value
        for name, module in modules.items()
        if module is not None
        for key, value in module.state_dict().items()
    }
    for index, layer in enumerate(loaded.layers.layers):
        found |= {f"{index}.{key}": value for key, value in layer.state_dict().items()}
    return found


def assert_same_slice(left: pathlib.Path, right: pathlib.Path, spec: slices.SliceSpec) -> None:
    one, other = parameters_of(left, spec), parameters_of(right, spec)
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=0)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("sharded", [True, False], ids=["shards", "one file"])
@pytest.mark.parametrize("tier", ["device", "cloud"])
def test_a_tier_fetches_its_slice_and_five_percent_at_most(
    tmp_path: pathlib.Path, tied: bool, sharded: bool, tier: str
) -> None:
    model = models_to_serve.save(tmp_path / "model", tied=tied, sharded=sharded)
    assert (len(list(model.glob("*.safetensors"))) > 1) == sharded
    device = tier == "device"
    spec = slices.SliceSpec(*((0, 1) if device else (1, LAYERS)), embedding=device, lm_head=device)
    wanted = wanted_of(model, start=spec.start, end=spec.end, embedding=device, lm_head=device)
    with file_server.FileServer(model).running() as server:
        assert fetch(server, wanted, tmp_path / "slice")
        sent = server.total_sent_bytes
        assert not fetch(server, wanted_with_fingerprint(server, wanted), tmp_path / "slice"), (
            "a restart fetches nothing"
        )
    held = sum(value.nbytes for name, value in parameters_of(model, spec).items() if not (tied and "lm_head" in name))
    assert held <= sent <= held * 1.05
    assert_same_slice(tmp_path / "slice", model, spec)
    assert digest.model_digest(tmp_path / "slice") == wanted.digest
    assert (tmp_path / "slice" / "tokenizer.json").exists() == device
    assert not list(tmp_path.glob("*.partial"))


def wanted_with_fingerprint(server: file_server.FileServer, wanted: slice_fetch.WantedSlice) -> slice_fetch.WantedSlice:
    folder = opening.open_folder(server.url, PLACES, field="model.source")
    try:
        return dataclasses.replace(wanted, fingerprint=identity.fingerprint(layout.read(folder)))
    finally:
        folder.close()


def test_a_device_with_tail_layers_fetches_them_too(tmp_path: pathlib.Path) -> None:
    model = models_to_serve.save(tmp_path / "model", tied=True, sharded=True)
    with file_server.FileServer(model).running() as server:
        fetch(server, wanted_of(model, tail_start=LAYERS - 1), tmp_path / "slice")
    for bounds in ((0, 1), (LAYERS - 1, LAYERS)):
        assert_same_slice(tmp_path / "slice", model, slices.SliceSpec(*bounds, embedding=False, lm_head=False))
    with pytest.raises(errors.SplitOutsideModel):
        parameters_of(tmp_path / "slice", slices.SliceSpec(1, 2, embedding=False, lm_head=False))


def test_broken_answers_are_continued_where_they_broke_off(tmp_path: pathlib.Path) -> None:
    model = models_to_serve.save(tmp_path / "model", tied=True, sharded=False)
    wanted = wanted_of(model)
    with file_server.FileServer(model).running() as server:
        wanted = wanted_with_fingerprint(server, wanted)
        server.sent_bytes.clear()
        server.break_after_bytes = [40_000, 1000, 50_000]
        server.statuses = [503]
        fetch(server, wanted, tmp_path / "slice")
        assert not server.break_after_bytes
        held = slice_plan_bytes(model)
        assert server.total_sent_bytes <= held * 1.05, "nothing is sent twice"
    assert_same_slice(tmp_path / "slice", model, slices.SliceSpec(0, 1, embedding=True, lm_head=True))


def slice_plan_bytes(model: pathlib.Path) -> int:
    return sum(
        value.nbytes for value in parameters_of(model, slices.SliceSpec(0, 1, embedding=True, lm_head=False)).values()
    )


def test_a_new_process_goes_on_where_the_last_one_stopped(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models_to_serve.save(tmp_path / "model", tied=True, sharded=False)
    whole_plan = slice_plan.safetensors_file
    monkeypatch.setattr(slice_plan, "safetensors_file", lambda tensors: whole_plan(tensors, piece_bytes=50_000))
    with file_server.FileServer(model).running() as server:
        wanted = wanted_with_fingerprint(server, wanted_of(model))
        server.sent_bytes.clear()
        pieces_before = 0

        def give_up(done: int, total: int) -> None:
            nonlocal pieces_before
            if done > total // 2:
                pieces_before = done
                raise KeyboardInterrupt

        folder = opening.open_folder(server.url, PLACES, field="model.source")
        with pytest.raises(KeyboardInterrupt):
            slice_fetch.fetch_slice(folder, wanted, tmp_path / "slice", on_bytes=give_up)
        folder.close()
        assert not (tmp_path / "slice").exists()
        server.sent_bytes.clear()
        fetch(server, wanted, tmp_path / "slice")
        assert server.total_sent_bytes < slice_plan_bytes(model) * 0.8
    assert pieces_before > 0
    assert_same_slice(tmp_path / "slice", model, slices.SliceSpec(0, 1, embedding=True, lm_head=True))


def test_other_files_than_the_inspected_are_refused_with_the_digest(tmp_path: pathlib.Path) -> None:
    model = models_to_serve.save(tmp_path / "model", tied=True, sharded=False)
    with file_server.FileServer(model).running() as server:
        wanted = wanted_with_fingerprint(server, wanted_of(model))
        server.generation = "2"  # the same sizes and shapes, other weights: only the entity tag tells
        with pytest.raises(errors.SourceError, match=wanted.digest) as raised:
            fetch(server, wanted, tmp_path / "slice")
    assert raised.value.field == "model.source"
    assert not (tmp_path / "slice").exists()


def test_files_that_change_while_they_are_fetched_are_refused(tmp_path: pathlib.Path) -> None:
    model = models_to_serve.save(tmp_path / "model", tied=True, sharded=False)
    with file_server.FileServer(model).running() as server:
        wanted = wanted_with_fingerprint(server, wanted_of(model))
        # The header is shorter; then each piece, whichever comes first, breaks off behind a byte and has to be resumed.
        server.break_after_bytes = [100_000] + [1] * 50

        def change(done: int, total: int) -> None:
            server.generation = "2"

        folder = opening.open_folder(server.url, PLACES, field="model.source")
        with pytest.raises(errors.SourceError, match="changed while it was being read"):
            slice_fetch.fetch_slice(folder, wanted, tmp_path / "slice", on_bytes=change)
        folder.close()


def test_the_hub_with_a_token_that_stays_at_its_host(tmp_path: pathlib.Path) -> None:
    model = models_to_serve.save(tmp_path / "model", tied=True, sharded=True)
    with file_server.FileServer(model, token="secret").running() as server:
        places = opening.Places(hub_url=server.url, retry=NO_PAUSE)
        folder = opening.open_folder("hf://org/name@v1", places, field="model.source", token="secret")
        wanted = dataclasses.replace(wanted_of(model), fingerprint=identity.fingerprint(layout.read(folder)))
        slice_fetch.fetch_slice(folder, wanted, tmp_path / "slice")
        folder.close()
        other = opening.open_folder("hf://org/name@v2", places, field="model.source", token="secret")
        with pytest.raises(errors.SourceError, match="no longer those"):
            slice_fetch.fetch_slice(other, wanted, tmp_path / "other")
        other.close()
    at_hub = [path for path, sent in server.requests if sent == "Bearer secret"]
    elsewhere = [path for path, sent in server.requests if not sent]
    assert all(path.startswith(("/org/name/resolve/v1/", "/org/name/resolve/v2/")) for path in at_hub)
    assert elsewhere
    assert all(path.startswith("/cdn/") for path in elsewhere)
    assert_same_slice(tmp_path / "slice", model, slices.SliceSpec(0, 1, embedding=True, lm_head=True))


def test_a_full_disk_is_said_before_anything_is_fetched(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models_to_serve.save(tmp_path / "model", tied=True, sharded=False)
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    full = pytest.raises(errors.SourceError, match="give the cache more room")
    with file_server.FileServer(model).running() as server, full:
        fetch(server, wanted_of(model), tmp_path / "slice")
