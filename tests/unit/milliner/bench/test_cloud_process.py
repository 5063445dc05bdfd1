"""The bench's cloud process when things go wrong; the rest is covered by the system test of the bench."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from milliner.bench import cloud_process


async def _start(config: Path) -> None:
    async with cloud_process.running(config, environment={}):
        pytest.fail("a cloud without a model became ready")


async def test_a_missing_configuration_is_told_by_file(tmp_path: Path) -> None:
    with pytest.raises(cloud_process.CloudProcessError, match=r"none\.json"):
        await _start(tmp_path / "none.json")


async def test_a_model_that_is_not_there_is_told(tmp_path: Path) -> None:
    config = tmp_path / "cloud.json"
    model = {"path": str(tmp_path / "no-model"), "servedName": "bench", "dtype": "Float32"}
    slice_bounds = {"start": 1, "end": 2}
    config.write_text(
        json.dumps({"role": "cloud", "topology": "t", "name": "t-cloud-0", "model": model, "slice": slice_bounds})
    )
    with pytest.raises(cloud_process.CloudProcessError, match="no-model"):
        await _start(config)
