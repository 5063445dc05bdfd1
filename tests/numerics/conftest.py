"""One thread for torch: results do not depend on the machine's cores, and parallel tests do not fight for them."""

from __future__ import annotations

import pytest
import torch
import transformers


@pytest.fixture(autouse=True, scope="session")
def quiet_single_thread() -> None:
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
