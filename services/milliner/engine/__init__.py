"""Sessions, scheduling, paged KV cache and the executor of one accelerator."""
