"""A whole split topology in one process: cloud engine behind real gRPC, device submodels, a strategy. Test harness."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pathlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import torch
import transformers

from milliner.contract import role_config
from milliner.core import clock, compute, ports, types
from milliner.engine import engine as engines
from milliner.engine import executor, limits, slice_backend
from milliner.engine.device import costs, device_model, submodels
from milliner.model import adapter, checkpoint, digest, drafter_file, medusa
from milliner.model import slice as slices
from milliner.roles import hidden_state_service
from milliner.strategies import base, factory, openings
from milliner.strategies import options as strategy_options
from milliner.telemetry import cloud_span, record, tracing
from milliner.wire import client, codecs, pipeline, server

CODECS = submodels.Codecs(encode=codecs.encode, decode=codecs.decode, bytes_per_position=codecs.bytes_per_position)
GREEDY = types.SamplingParams()
DTYPE, CPU = torch.float32, torch.device("cpu")


def write_adapter(folder: pathlib.Path, model: pathlib.Path, *, split_layer: int, form: adapter.AdapterForm) -> None:
    """A random adapter that fits the model: it drafts, mostly wrongly."""
    source = checkpoint.Checkpoint.open(model)
    torch.manual_seed(7)
    drafter = adapter.Adapter(adapter.AdapterConfig.from_target(source.config, form=form))
    card = drafter_file.Card(
        kind=drafter_file.DrafterKind.ADAPTER,
        form=form.value,
        model_digest=digest.model_digest(model),
        split_layer=split_layer,
        dtype="float32",
        sizes=drafter_file.sizes_of(drafter),
    )
    drafter_file.save(folder, drafter, card)


def write_agreeing_pair(
    folder: pathlib.Path, *, split_layer: int, deep_share: float, vocab_size: int = 67
) -> tuple[pathlib.Path, pathlib.Path]:
    """A tiny Llama and an adapter that agrees with it as far as the layers after the split add little.

    `deep_share` scales what those layers add to the residual stream: 0 and the adapter is always right.
    """
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
        tie_word_embeddings=False,
        eos_token_id=None,
    )
    whole = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for layer in whole.model.layers[split_layer:]:
            layer.self_attn.o_proj.weight.mul_(deep_share)
            layer.mlp.down_proj.weight.mul_(deep_share)
    whole.save_pretrained(folder / "model")
    write_adapter(folder / "adapter", folder / "model", split_layer=split_layer, form=adapter.AdapterForm.ATTENTION)
    loaded = drafter_file.load_adapter(folder / "adapter", model_digest=digest.model_digest(folder / "model"))
    loaded.o_proj.weight.zero_()
    loaded.output_norm.weight.copy_(whole.model.norm.weight)
    drafter_file.save(folder / "adapter", loaded, drafter_file.read_card(folder / "adapter"))
    return folder / "model", folder / "adapter"


def write_medusa(folder: pathlib.Path, model: pathlib.Path, *, num_heads: int = 3) -> None:
    """Untrained Medusa heads: each repeats the target's next guess."""
    source = checkpoint.Checkpoint.open(model)
    heads = medusa.MedusaHeads(medusa.MedusaConfig(hidden_size=source.hidden_size, num_heads=num_heads))
    card = drafter_file.Card(
        kind=drafter_file.DrafterKind.MEDUSA,
        form="medusa",
        model_digest=digest.model_digest(model),
        split_layer=1,
        dtype="float32",
        sizes=drafter_file.sizes_of(heads),
    )
    drafter_file.save(folder, heads, card)


@dataclasses.dataclass(frozen=True)
class Replica:
    """One running cloud replica."""

    engine: engines.Engine
    listening: server.CloudServer


class SplitTopology:
    """A running topology; `strategy` binds options to it."""

    def __init__(
        self, device: device_model.DeviceModel, transport: client.GrpcTransport, replicas: Sequence[Replica]
    ) -> None:
        self.device = device
        self.transport = transport
        self.replicas = replicas

    def strategy(
        self,
        options: strategy_options.HatOptions | strategy_options.UShapeOptions,
        *,
        max_open_wait_s: float = openings.MAX_WAIT_S,
    ) -> base.Generator:
        return factory.build_generator(
            options,
            clock=clock.LoopClock(),
            transport=self.transport,
            device=self.device,
            max_open_wait_s=max_open_wait_s,
        )


@contextlib.asynccontextmanager
async def running(
    files: device_model.DeviceFiles,
    *,
    device_costs: costs.DeviceCosts | None = None,
    cloud_cost: compute.ComputeCost | None = None,
    num_replicas: int = 1,
    kv_cache_bytes: Sequence[int] = (64 << 20,),
    device_sessions: int = 8,
    cloud_sessions: int = 256,
    num_stages: int = 1,
) -> AsyncIterator[SplitTopology]:
    """Starts cloud replicas and a device over a checkpoint folder, float32 on CPU; caches of replicas in turn.

    `replicas` of the result are those of the first stage.
    """
    modules = device_model.load_submodels(files, dtype=DTYPE, torch_device=CPU)
    async with contextlib.AsyncExitStack() as stack:
        split = role_config.Split(
            layers=modules.info.cloud_slice_end + files.tail_layers,
            split_layer=files.split_layer,
            tail_layers=files.tail_layers,
        )
        behind: list[str] = []
        for stage in reversed(range(num_stages)):
            replicas = [
                await stack.enter_async_context(
                    _replica(
                        files,
                        modules.info,
                        cloud_cost,
                        kv_cache_bytes[index % len(kv_cache_bytes)],
                        cloud_sessions,
                        bounds=split.stage_bounds(stage, num_stages),
                        behind=behind,
                    )
                )
                for index in range(num_replicas)
            ]
            behind = [f"127.0.0.1:{replica.listening.port}" for replica in replicas]
        worker = executor.ComputeExecutor(name="device", torch_threads=1)
        stack.callback(worker.close)
        endpoints = [f"127.0.0.1:{replica.listening.port}" for replica in replicas]
        transport = await stack.enter_async_context(client.GrpcTransport(endpoints))
        device = device_model.DeviceModel(
            modules, codecs=CODECS, executor=worker, costs=device_costs, max_sessions=device_sessions
        )
        yield SplitTopology(device, transport, replicas)


@contextlib.asynccontextmanager
async def _replica(
    files: device_model.DeviceFiles,
    info: compute.DeviceInfo,
    cost: compute.ComputeCost | None,
    kv_cache_bytes: int,
    max_sessions: int,
    *,
    bounds: role_config.SliceBounds,
    behind: Sequence[str],
) -> AsyncIterator[Replica]:
    async with contextlib.AsyncExitStack() as stack:
        worker = executor.ComputeExecutor(name="cloud", torch_threads=1)
        stack.callback(worker.close)
        spec = slices.SliceSpec(bounds.start, bounds.end, embedding=False, lm_head=False)
        cloud_slice = slices.load_slice(checkpoint.Checkpoint.open(files.model), spec, dtype=DTYPE, torch_device=CPU)
        config = limits.EngineConfig(
            kv_cache_bytes=kv_cache_bytes, page_tokens=16, max_batch_tokens=256, max_sessions=max_sessions
        )
        time = clock.LoopClock()
        backend = slice_backend.SliceBackend(cloud_slice, config=config)
        engine = engines.Engine(backend, config=config, executor=worker, clock=time, cost=cost)
        traces = tracing.set_up(tier="cloud", topology="test", instance="cloud-0")
        stack.callback(traces.shutdown)
        service: ports.CloudService = hidden_state_service.HiddenStateService(
            engine,
            served=hidden_state_service.Served(info.model_digest, spec.start, spec.end, info.hidden_size, DTYPE),
            spans=cloud_span.CloudSpans(traces.tracer),
            clock=time,
        )
        if behind:
            transport = await stack.enter_async_context(client.GrpcTransport(behind))
            cut = pipeline.StageBounds(bounds.start, bounds.end, info.cloud_slice_end, types.Codec.FLOAT32)
            service = pipeline.PipelineStage(service, behind=transport, bounds=cut, clock=time)
        listening = await server.serve(service, host="127.0.0.1", port=0)
        serving = asyncio.create_task(engine.run())
        try:
            yield Replica(engine, listening)
        finally:
            await listening.stop(0)
            await engine.stop()
            await serving


def new_record(prompt_tokens: int = 0) -> record.RequestRecord:
    return record.RequestRecord(
        clock=clock.LoopClock(),
        request_id="test",
        operation="text_completion",
        model="test",
        strategy="test",
        prompt_tokens=prompt_tokens,
    )


async def answer(
    generator: base.Generator,
    prompt_ids: Sequence[int],
    max_new_tokens: int,
    *,
    stop_token_ids: frozenset[int] = frozenset(),
    sampling: types.SamplingParams = GREEDY,
    request_record: record.RequestRecord | None = None,
) -> list[int]:
    """The token ids of one answer."""
    request = types.GenerationRequest(
        request_id="test",
        prompt_ids=tuple(prompt_ids),
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        stop_token_ids=stop_token_ids,
    )
    used = request_record or new_record(len(prompt_ids))
    tokens: list[int] = []
    async with contextlib.aclosing(generator.generate(request, used)) as emissions:
        async for emission in emissions:
            tokens.extend(token.token_id for token in emission.tokens)
    return tokens


def reference(model: pathlib.Path, prompt_ids: Sequence[int], max_new_tokens: int) -> list[int]:
    """What `transformers` says, greedily, without stopping."""
    whole: Any = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=DTYPE)
    prompt = torch.tensor([list(prompt_ids)])
    whole.generation_config.eos_token_id = None
    said = whole.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),  # else every token 0 of the prompt would be taken for padding
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=0,
    )
    return [int(token) for token in said[0, len(prompt_ids) :]]
