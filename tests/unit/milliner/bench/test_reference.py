from __future__ import annotations

from pathlib import Path

import torch
import transformers

from milliner.bench import reference


def _tiny_model(folder: Path) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=61,
        max_position_embeddings=64,
        eos_token_id=7,
        initializer_range=0.5,
    )
    model: transformers.PreTrainedModel = transformers.LlamaForCausalLM(config)
    model.eval()
    model.save_pretrained(folder)
    return model


def test_answers_are_those_of_a_full_pass_per_token(tmp_path: Path) -> None:
    model = _tiny_model(tmp_path)
    prompts = [(1, 2, 3), (9, 8, 7, 6)]
    done: list[int] = []
    answers = reference.greedy_answers(
        tmp_path, [*prompts, prompts[0]], new_tokens=12, on_done=lambda: done.append(len(done))
    )
    for prompt in prompts:
        tokens = list(prompt)
        with torch.inference_mode():
            for _ in range(12):
                tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
        assert answers[prompt] == tuple(tokens[len(prompt) :])
    assert len(done) == len(prompts)
