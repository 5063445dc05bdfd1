"""A tiny random model with a tokenizer, and topologies that use it: what a whole topology needs, in milliseconds."""

from __future__ import annotations

import pathlib
import textwrap
from collections.abc import Callable

import pytest


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A Llama of 4 layers and width 32 in float32, and a byte-level tokenizer of 256 bytes and one special token."""
    import tokenizers
    import torch
    import transformers
    from tokenizers import decoders, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("tiny")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE(vocab={piece: index for index, piece in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")
    tokenizer.save_pretrained(folder)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=256,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


Write = Callable[..., pathlib.Path]


@pytest.fixture
def write_topology(tiny_model: pathlib.Path, tmp_path: pathlib.Path) -> Write:
    """Writes a UShape topology over the tiny model; `spec` lines are added at its end."""

    def write(name: str = "tiny", *, extra: str = "", source: str | None = None) -> pathlib.Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(
            textwrap.dedent(
                f"""\
                apiVersion: milliner.dev/v1alpha1
                kind: InferenceTopology
                metadata: {{name: {name}}}
                spec:
                  model: {{source: {source or tiny_model.as_uri()}}}
                  strategy: {{type: UShape, uShape: {{splitLayer: 1}}}}
                  cloud: {{engine: {{kvCacheMebibytes: 16}}}}
                  devicePools:
                    - name: pool
                      replicas: 1
                """
            )
            + extra
        )
        return path

    return write
