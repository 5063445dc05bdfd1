"""A Llama of one layer with weights set by hand: the last position reads facts, wherever they stand, and says them.

A *question* and every answer look for *facts*; each fact's value is one token. A main fact is read a little more
strongly than a side one, so that a prompt with one of each is answered by the main fact's value, with a good share left
for the side fact's. All other tokens say nothing. Rotary embedding turns the dimension that is matched by next to
nothing, so that distance does not count.
"""

from __future__ import annotations

import pathlib

import torch
import transformers

FILLERS, FACTS, VALUES, QUESTION = range(16), range(16, 32), range(32, 48), 48
MAIN, SIDE = FACTS[:8], FACTS[8:]
VALUE_OF = dict(zip(FACTS, VALUES, strict=True))

_WIDTH, _HEAD = 96, 32
_OUT = 64  # first dimension of what has been read; those below are the tokens themselves
_MATCH = 15  # of the head: turns by theta ** -(15/16) per position
_MAIN_SCORE, _SIDE_SCORE = 9.0, 8.7  # a filler scores 0: a fact outweighs thousands
_READ, _SHARPNESS = 3.0, 0.7


def write(folder: pathlib.Path) -> pathlib.Path:
    """Saves the checkpoint, without a tokenizer."""
    config = transformers.LlamaConfig(
        vocab_size=50,
        hidden_size=_WIDTH,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=_HEAD,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 1e12},
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        _set(model)
    model.save_pretrained(folder)
    return folder


def _set(model: transformers.LlamaForCausalLM) -> None:
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            parameter.zero_()
    layer, one = model.model.layers[0], _WIDTH**-0.5  # what undoes the norm of a vector with a single 1
    model.model.embed_tokens.weight[:, :50] = torch.eye(50)
    asking = [QUESTION, *VALUES]
    layer.self_attn.q_proj.weight[_MATCH, asking] = one * _HEAD**0.5
    layer.self_attn.k_proj.weight[_MATCH, list(MAIN)] = one * _MAIN_SCORE
    layer.self_attn.k_proj.weight[_MATCH, list(SIDE)] = one * _SIDE_SCORE
    for index, (fact, value) in enumerate(VALUE_OF.items()):
        layer.self_attn.v_proj.weight[index, fact] = one
        layer.self_attn.o_proj.weight[_OUT + index, index] = _READ
        model.lm_head.weight[value, _OUT + index] = _SHARPNESS
