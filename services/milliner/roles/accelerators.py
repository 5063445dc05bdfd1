"""From a role's configuration to torch: accelerator, numeric type, threads. The only role module that imports torch."""

from __future__ import annotations

import torch

from milliner.contract import kinds
from milliner.core import errors

_DTYPES = {
    kinds.Dtype.FLOAT32: torch.float32,
    kinds.Dtype.BFLOAT16: torch.bfloat16,
    kinds.Dtype.FLOAT16: torch.float16,
}


def torch_device(choice: kinds.AcceleratorChoice) -> torch.device:
    """The accelerator to compute on; raises `ConfigError` when CUDA is asked for and absent."""
    if choice is kinds.AcceleratorChoice.CPU:
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    if choice is kinds.AcceleratorChoice.CUDA:
        raise errors.ConfigError("is Cuda, but torch finds no CUDA device: use Auto or Cpu", field="accelerator")
    return torch.device("cpu")


def dtype(wanted: kinds.Dtype) -> torch.dtype:
    """The numeric type of weights and activations."""
    assert wanted is not kinds.Dtype.AUTO, "the plan resolves Auto"
    return _DTYPES[wanted]
