"""A real prefill process whose accelerator holds a fraction of the caches that are going on: no token changes."""

from __future__ import annotations

import asyncio
import pathlib
import secrets

import httpx
import torch
from tests.system import role_processes, split_topology
from tests.unit.milliner.telemetry import otlp_receiver

from milliner.contract import emulation, kinds, role_config
from milliner.core import errors, generation, types
from milliner.model import checkpoint, digest, kv_cache, tokenizer_digest
from milliner.model import slice as slices
from milliner.wire import client

NEW_TOKENS, NUM_SESSIONS, NUM_PAGES, PAGE_TOKENS = 24, 8, 14, 16
PROMPTS = [tuple((7 * index + 3 * at) % 250 + 1 for at in range(20 + 9 * index)) for index in range(NUM_SESSIONS)]
GREEDY = generation.Sampler(types.SamplingParams(), seed=0)
MOST_ROUNDS = 5


def config_of(model: pathlib.Path, *, health_port: int) -> role_config.PrefillRoleConfig:
    """Eight caches take three times the pages; two sequences run at once, and one batch takes 10 ms."""
    source = checkpoint.Checkpoint.open(model)
    spec = slices.SliceSpec(0, source.num_layers, embedding=True, lm_head=True)
    loaded = slices.load_slice(source, spec, dtype=torch.float32, torch_device=torch.device("cpu"))
    page_bytes = PAGE_TOKENS * kv_cache.PagedKVCache.bytes_per_token(loaded.kv_spec, loaded.dtype)
    return role_config.PrefillRoleConfig(
        topology="t",
        name="prefill",
        model=role_config.ModelFiles(path=str(model), served_name="tiny", dtype=kinds.Dtype.FLOAT32),
        layers=source.num_layers,
        torch_threads=1,
        health_port=health_port,
        engine=role_config.EngineLimits(
            kv_cache_bytes=NUM_PAGES * page_bytes,
            kv_swap_bytes=5 * NUM_PAGES * page_bytes,
            page_tokens=PAGE_TOKENS,
            max_batch_sequences=2,
        ),
        scheduler=kinds.SchedulerType.SKIP_JOIN_MLFQ,
        emulation=emulation.CloudEmulation(
            compute=emulation.CloudCompute(layers=emulation.CallCost(fixed_microseconds=10_000))
        ),
    )


async def answers(port: int, model: pathlib.Path) -> list[list[int]]:
    """All prompts at once, as devices ask: one that is refused comes again."""
    transport = client.GrpcTokenTransport([f"127.0.0.1:{port}"])
    model_digest, tokenizer = digest.model_digest(model), tokenizer_digest.tokenizer_digest(model)

    async def opened(prompt: tuple[int, ...]) -> generation.TokenStream:
        while True:
            session_id = secrets.token_hex(16)
            request = generation.GenerationOpen(session_id, model_digest, tokenizer, prompt, NEW_TOKENS, GREEDY)
            try:
                return await transport.open(request)
            except errors.CapacityError:
                await asyncio.sleep(0.05)

    async def one(prompt: tuple[int, ...]) -> list[int]:
        stream = await opened(prompt)
        try:
            return [(await stream.receive()).step.token.token_id for _ in range(NEW_TOKENS)]
        finally:
            await stream.close()

    try:
        async with asyncio.timeout(120):
            return await asyncio.gather(*(one(prompt) for prompt in PROMPTS))
    finally:
        await transport.close()


def test_every_answer_is_the_models_where_caches_move_to_host_memory(
    tiny_model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    expected = [split_topology.reference(tiny_model, prompt, NEW_TOKENS) for prompt in PROMPTS]
    health = otlp_receiver.free_port()

    def metric(name: str) -> float:
        told = httpx.get(f"http://127.0.0.1:{health}/metrics", timeout=10, trust_env=False).text
        return sum(float(line.rpartition(" ")[2]) for line in told.splitlines() if line.startswith(name))

    with role_processes.running(config_of(tiny_model, health_port=health), tmp_path) as role:
        for _ in range(MOST_ROUNDS):  # on a busy machine few may be there at once
            assert asyncio.run(answers(role.port, tiny_model)) == expected
            if metric('milliner_cloud_kv_moved_bytes_total{to="accelerator"}') > 0:
                break
        else:
            raise AssertionError("no cache has come back from host memory")
        role_processes.wait_until(lambda: metric("milliner_cloud_kv_swapped_sessions") == 0, within_s=30.0)
