"""A written slice loads like the whole model within its bounds, carries its digest, and refuses what it lacks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.numerics import tiny_models

from milliner.core import errors
from milliner.model import checkpoint, digest, slice_writer
from milliner.model import slice as slices

DEVICE = slices.SliceSpec(0, 1, embedding=True, lm_head=True)
CLOUD = slices.SliceSpec(1, 3, embedding=False, lm_head=False)


def load(path: Path, spec: slices.SliceSpec) -> slices.ModelSlice:
    opened = checkpoint.Checkpoint.open(path)
    return slices.load_slice(opened, spec, dtype=torch.float32, torch_device=torch.device("cpu"))


@pytest.mark.parametrize("case", ["llama", "llama, tied, biases", "mixtral", "gemma3"])
def test_written_slices_give_the_whole_models_logits(case: str, tmp_path: Path) -> None:
    tiny_models.save(case, tmp_path / "whole")
    (tmp_path / "whole" / "tokenizer.json").write_text("{}")
    whole = checkpoint.Checkpoint.open(tmp_path / "whole")
    written = {
        name: slice_writer.write_slice(whole, spec, tmp_path / name)
        for name, spec in (("device", DEVICE), ("cloud", CLOUD))
    }
    assert written["device"].num_tensors + written["cloud"].num_tensors == written["cloud"].num_model_tensors
    assert (tmp_path / "device" / "tokenizer.json").exists()
    assert not (tmp_path / "cloud" / "tokenizer.json").exists()
    modes = {path.stat().st_mode for path in (tmp_path / "device").glob("*.*") if path.name != "tokenizer.json"}
    assert len(modes) == 1, "who may read the configuration may read the weights"
    assert {digest.model_digest(tmp_path / name) for name in ("whole", "device", "cloud")} == {
        written["cloud"].model_digest
    }
    tokens = tiny_models.prompt(20)
    parts = [load(tmp_path / "device", DEVICE), load(tmp_path / "cloud", CLOUD)]
    expected = tiny_models.open_session(tiny_models.load(tmp_path / "whole", 0, 1, 3)).logits(tokens, 0)
    torch.testing.assert_close(tiny_models.open_session(parts).logits(tokens, 0), expected, rtol=0, atol=0)


def test_a_slice_folder_refuses_what_it_does_not_hold(tmp_path: Path) -> None:
    tiny_models.save("llama", tmp_path / "whole")
    whole = checkpoint.Checkpoint.open(tmp_path / "whole")
    slice_writer.write_slice(whole, CLOUD, tmp_path / "cloud")
    load(tmp_path / "cloud", slices.SliceSpec(2, 3, embedding=False, lm_head=False))
    for spec, word in (
        (slices.SliceSpec(0, 3, embedding=False, lm_head=False), r"\[1, 3\)"),
        (slices.SliceSpec(1, 3, embedding=True, lm_head=False), "embedding"),
        (slices.SliceSpec(1, 3, embedding=False, lm_head=True), "lm_head"),
    ):
        with pytest.raises(errors.SplitOutsideModel, match=word):
            load(tmp_path / "cloud", spec)


def test_a_slice_of_a_slice_keeps_the_models_digest(tmp_path: Path) -> None:
    tiny_models.save("llama", tmp_path / "whole")
    slice_writer.write_slice(checkpoint.Checkpoint.open(tmp_path / "whole"), CLOUD, tmp_path / "cloud")
    last = slices.SliceSpec(2, 3, embedding=False, lm_head=False)
    slice_writer.write_slice(checkpoint.Checkpoint.open(tmp_path / "cloud"), last, tmp_path / "last")
    assert digest.model_digest(tmp_path / "last") == digest.model_digest(tmp_path / "whole")


def test_large_slices_are_sharded_and_report_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slice_writer, "MAX_FILE_BYTES", 20_000)
    tiny_models.save("llama", tmp_path / "whole")
    seen: list[tuple[int, int]] = []
    written = slice_writer.write_slice(
        checkpoint.Checkpoint.open(tmp_path / "whole"),
        CLOUD,
        tmp_path / "cloud",
        on_bytes=lambda done, total: seen.append((done, total)),
    )
    assert len(seen) == len(list((tmp_path / "cloud").glob("*.safetensors"))) > 1
    assert seen[-1] == (written.num_bytes, written.num_bytes)
    load(tmp_path / "cloud", CLOUD)


def test_nothing_is_left_behind_when_it_fails(tmp_path: Path) -> None:
    tiny_models.save("llama", tmp_path / "whole")
    whole = checkpoint.Checkpoint.open(tmp_path / "whole")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(errors.CheckpointError) as refused:
        slice_writer.write_slice(whole, CLOUD, tmp_path / "taken")
    assert refused.value.field == str(tmp_path / "taken")

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        slice_writer.write_slice(whole, CLOUD, tmp_path / "cloud", on_bytes=interrupt)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken", "whole"]
