"""Limits of the cloud engine, as the role passes them down (`cloud.engine` of the topology). Torch-free."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class EngineConfig:
    """Defaults are the topology's (docs/topology.md), where it has them.

    `max_batch_tokens` bounds one forward pass and so what a chunk can add to other sessions' time between tokens;
    `kv_cache_bytes` is spent in pages of `page_tokens`, and so is `kv_swap_bytes` of host memory; `kv_cache_field` is
    where a topology says how much.
    """

    kv_cache_bytes: int
    kv_cache_field: str = "cloud.engine.kvCacheMebibytes"
    kv_swap_bytes: int = 0
    max_batch_tokens: int = 2048
    page_tokens: int = 64  # a page is 512 KiB per layer at 8 KV heads of 128 in float16; small against a prompt
    max_sessions: int = 256
    session_idle_s: float = 300.0
    max_frame_tokens: int = 2048
