"""A whole split topology in one process: cloud engine behind real gRPC, device submodels, a strategy. Test harness."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
from collections.abc import AsyncIterator, Sequence

import torch
import transformers

from milliner.core import clock, types
from milliner.engine import engine as engines
from milliner.engine import executor, limits, slice_backend
from milliner.engine.device import costs, device_model, submodels
from milliner.model import adapter, checkpoint, digest, drafter_file, medusa
from milliner.model import slice as slices
from milliner.roles import hidden_state_service
from milliner.strategies import base, factory
from milliner.strategies import options as strategy_options
from milliner.telemetry import cloud_span, record, tracing
from milliner.wire import client, codecs, server

CODECS = submodels.Codecs(encode=codecs.encode, decode=codecs.decode, bytes_per_position=codecs.bytes_per_position)
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


class SplitTopology:
    """A running topology; `strategy` binds options to it."""

    def __init__(
        self, device: device_model.DeviceModel, transport: client.GrpcTransport, engine: engines.Engine
    ) -> None:
        self.device = device
        self.transport = transport
        self.engine = engine

    def strategy(self, options: strategy_options.HatOptions | strategy_options.UShapeOptions) -> base.Generator:
        return factory.build_generator(options, clock=clock.LoopClock(), transport=self.transport, device=self.device)


@contextlib.asynccontextmanager
async def running(
    files: device_model.DeviceFiles, *, device_costs: costs.DeviceCosts | None = None
) -> AsyncIterator[SplitTopology]:
    """Starts cloud and device over a checkpoint folder, float32 on CPU."""
    async with contextlib.AsyncExitStack() as stack:
        cloud_worker = executor.ComputeExecutor(name="cloud", torch_threads=1)
        device_worker = executor.ComputeExecutor(name="device", torch_threads=1)
        stack.callback(cloud_worker.close)
        stack.callback(device_worker.close)
        modules = device_model.load_submodels(files, dtype=DTYPE, torch_device=CPU)
        info = modules.info
        cloud_slice = slices.load_slice(
            checkpoint.Checkpoint.open(files.model),
            slices.SliceSpec(info.split_layer, info.cloud_slice_end, embedding=False, lm_head=False),
            dtype=DTYPE,
            torch_device=CPU,
        )
        config = limits.EngineConfig(kv_cache_bytes=64 << 20, page_tokens=16, max_batch_tokens=256)
        time = clock.LoopClock()
        engine = engines.Engine(
            slice_backend.SliceBackend(cloud_slice, config=config), config=config, executor=cloud_worker, clock=time
        )
        traces = tracing.set_up(tier="cloud", topology="test", instance="cloud-0")
        stack.callback(traces.shutdown)
        service = hidden_state_service.HiddenStateService(
            engine,
            served=hidden_state_service.Served(
                info.model_digest, info.split_layer, info.cloud_slice_end, info.hidden_size, DTYPE
            ),
            spans=cloud_span.CloudSpans(traces.tracer),
            clock=time,
        )
        listening = await server.serve(service, host="127.0.0.1", port=0)
        serving = asyncio.create_task(engine.run())
        transport = await stack.enter_async_context(client.GrpcTransport([f"127.0.0.1:{listening.port}"]))
        device = device_model.DeviceModel(modules, codecs=CODECS, executor=device_worker, costs=device_costs)
        try:
            yield SplitTopology(device, transport, engine)
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
    sampling: types.SamplingParams = types.SamplingParams(),
    request_record: record.RequestRecord | None = None,
) -> list[int]:
    """The token ids of one answer."""
    request = types.GenerationRequest(
        request_id="test", prompt_ids=tuple(prompt_ids), max_new_tokens=max_new_tokens, sampling=sampling
    )
    used = request_record or new_record(len(prompt_ids))
    tokens: list[int] = []
    async with contextlib.aclosing(generator.generate(request, used)) as emissions:
        async for emission in emissions:
            tokens.extend(token.token_id for token in emission.tokens)
    return tokens


def reference(model: pathlib.Path, prompt_ids: Sequence[int], max_new_tokens: int) -> list[int]:
    """What `transformers` says, greedily, without stopping."""
    whole = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=DTYPE)
    prompt = torch.tensor([list(prompt_ids)])
    whole.generation_config.eos_token_id = None
    said = whole.generate(prompt, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=0)
    return [int(token) for token in said[0, len(prompt_ids) :]]
