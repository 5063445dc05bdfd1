"""llama.cpp's server on a checkpoint folder, in a process of its own: an engine that others wrote.

`python llama_server.py MODEL.gguf` serves until its standard input ends, and writes its address first. In float32 with
one thread, so that its greedy answers are the unsplit model's. Only Llamas with a byte-level BPE tokenizer.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_NORMAL, _SPECIAL, _UNUSED = 1, 3, 5  # llama.cpp's types of tokens
SLOT_POSITIONS = 1024


def write_gguf(folder: pathlib.Path, path: pathlib.Path) -> None:
    """The model and tokenizer of a Hugging Face folder as one GGUF file, all in float32."""
    gguf = pytest.importorskip("gguf", reason="gguf writes models for llama.cpp: pip install 'milliner[dev]'")
    from safetensors import torch as safetensors_torch

    config = json.loads((folder / "config.json").read_text())
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_vocab_size(config["vocab_size"])
    _add_tokenizer(writer, folder, vocab_size=config["vocab_size"], end=config["eos_token_id"])
    for name, tensor in safetensors_torch.load_file(folder / "model.safetensors").items():
        weights = tensor.float().numpy()
        part = name.removesuffix(".weight").rpartition(".")[2]
        if part in heads:
            weights = _interleaved(weights, heads[part])
        writer.add_tensor(_gguf_name(name), np.ascontiguousarray(weights))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: Any, folder: pathlib.Path, *, vocab_size: int, end: int) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    names = {index: token for token, index in tokenizer["model"]["vocab"].items()}
    special = {added["id"]: added["content"] for added in tokenizer["added_tokens"]}
    names |= special
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([names.get(index, f"<unused {index}>") for index in range(vocab_size)])
    writer.add_token_types(
        [_SPECIAL if index in special else _NORMAL if index in names else _UNUSED for index in range(vocab_size)]
    )
    merges = tokenizer["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)
    writer.add_add_bos_token(False)


def _gguf_name(name: str) -> str:
    layers, _, rest = name.removesuffix(".weight").partition("model.layers.")
    if layers:
        return f"{_NAMES[layers]}.weight"
    index, _, part = rest.partition(".")
    return f"blk.{index}.{_NAMES[part]}.weight"


def _interleaved(weights: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """[H * size, D]: rotary halves as neighbours, which is how llama.cpp turns them."""
    rows, width = weights.shape
    return weights.reshape(heads, 2, rows // heads // 2, width).swapaxes(1, 2).reshape(rows, width)


class LlamaServer:
    """A running server; `url` is its base URL."""

    def __init__(self, model: pathlib.Path, *, port: int = 0) -> None:
        command = [sys.executable, __file__, str(model), str(port)]
        self._log = model.with_suffix(".log").open("a")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True
        )
        assert self.process.stdout is not None
        address = next((line for line in self.process.stdout if line.startswith("http://")), "")
        assert address, model.with_suffix(".log").read_text()
        self.url = f"{address.strip()}/v1"
        self.port = int(address.rpartition(":")[2])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def close(self) -> None:
        self.kill()
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        self._log.close()


@contextlib.contextmanager
def running(model: pathlib.Path, *, port: int = 0) -> Iterator[LlamaServer]:
    """A server that has loaded its model."""
    pytest.importorskip("xllamacpp", reason="xllamacpp is llama.cpp's server: pip install 'milliner[dev]'")
    server = LlamaServer(model, port=port)
    try:
        yield server
    finally:
        server.close()


def _serve(model: str, port: int) -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.port = port
    params.n_parallel = 2
    params.n_ctx = 2 * SLOT_POSITIONS
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.fit_params = False
    params.warmup = False
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
