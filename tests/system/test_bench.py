"""The strategies' bench end to end on a tiny random model: real processes, an emulated link, all strategies."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import rich.console
import tokenizers
import torch
import transformers

from milliner.bench import paper_wifi, plan, time_scale
from milliner.model import adapter, digest, drafter_file, medusa

SPLIT = 1
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _model(folder: Path) -> Path:
    """A random Llama of 3 layers that reads letters."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=len(LETTERS),
        max_position_embeddings=128,
        initializer_range=0.2,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    vocabulary = {letter: index for index, letter in enumerate(LETTERS)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="a"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def _drafter(folder: Path, drafter: adapter.Adapter | medusa.MedusaHeads, kind: str, form: str, model: Path) -> Path:
    card = drafter_file.Card(
        kind=drafter_file.DrafterKind(kind),
        form=form,
        model_digest=digest.model_digest(model),
        split_layer=SPLIT,
        dtype="float32",
        sizes=drafter_file.sizes_of(drafter),
    )
    drafter_file.save(folder, drafter, card)
    return folder


@pytest.fixture
def bench_inputs(tmp_path: Path) -> paper_wifi.Inputs:
    model = _model(tmp_path / "model")
    config = transformers.AutoConfig.from_pretrained(model)
    layer = adapter.Adapter(adapter.AdapterConfig.from_target(config, form=adapter.AdapterForm.LAYER))
    heads = medusa.MedusaHeads(medusa.MedusaConfig(hidden_size=config.hidden_size, num_heads=2))
    text = tmp_path / "text.txt"
    text.write_text("".join(LETTERS[(7 * i * i + 3 * i) % 26] for i in range(200)))
    return paper_wifi.inputs(
        model=model,
        adapter=_drafter(tmp_path / "adapter", layer, "adapter", "Layer", model),
        medusa=_drafter(tmp_path / "medusa", heads, "medusa", "medusa", model),
        texts=[text],
    )


def test_every_strategy_is_measured_and_answers_as_the_unsplit_model_does(
    bench_inputs: paper_wifi.Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_plan = plan.Plan(
        strategies=list(plan.StrategyName),
        codecs=["float32"],
        prompt_tokens=[48],
        temperatures=[0.0],
        requests=1,
        new_tokens=8,
    )
    console = rich.console.Console(file=io.StringIO())
    # A tenth of the durations: most calls overrun on a slow machine, which is not what is tested here.
    monkeypatch.setattr(time_scale, "FACTORS", (0.1, 0.1))  # tried once; whatever comes of it
    result = paper_wifi.run(
        run_plan, preset_name="paper-wifi", time_scale=None, command="test", console=console, run_inputs=bench_inputs
    )
    assert result.summary["time_scale"] == 0.1
    path = tmp_path / "bench.json"
    result.write_json(path)
    rows = {row["strategy"]: row for row in json.loads(path.read_text())["rows"]}
    assert set(rows) == set(plan.StrategyName)
    for row in rows.values():
        assert row["requests"] == 1
        assert row["ttft_p50_s"] > 0
        assert row["tbt_p50_s"] > 0
        assert row["cloud_busy_ms_per_token"] > 0
        assert row["bytes_up_per_token"] > 48 * 64 * 2 / 8
    # Verification frames and the prompt's tail are float16, so single answers may differ late; most do not.
    assert sum(row["token_agreement"] for row in rows.values()) / len(rows) > 0.8
    assert rows["UShape"]["acceptance_length"] is None
    assert rows["UMedusa"]["acceptance_length"] >= 1.0
