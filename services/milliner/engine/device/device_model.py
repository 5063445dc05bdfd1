"""A device's submodels behind `core.compute.DeviceCompute`: loading them, and opening sessions over them.

`load_submodels` reads files, once for a role or a bench; `open` is awaited on the event loop for every request. All
sessions share one executor, so one request computes at a time, as on a real device's accelerator.
"""

from __future__ import annotations

import dataclasses
import pathlib
import secrets

import torch

from milliner.core import compute, errors, types
from milliner.engine import executor as executors
from milliner.engine.device import costs as device_costs
from milliner.engine.device import room, session, submodels
from milliner.model import checkpoint, digest, drafter_file, kv_cache, slice


@dataclasses.dataclass(frozen=True, slots=True)
class DeviceFiles:
    """What a device loads: the checkpoint (whole, or a slice of it) and an adapter or Medusa heads where it drafts."""

    model: pathlib.Path
    split_layer: int
    tail_layers: int = 0
    adapter: pathlib.Path | None = None
    medusa: pathlib.Path | None = None


def load_submodels(files: DeviceFiles, *, dtype: torch.dtype, torch_device: torch.device) -> submodels.Submodels:
    """Reads the device's slices and drafters.

    Raises `CheckpointError`, `SplitOutsideModel`, `UnsupportedModel` or `DrafterMismatch`, each naming file or field.
    """
    source = checkpoint.Checkpoint.open(files.model)
    layers, split, tail_layers = source.num_layers, files.split_layer, files.tail_layers
    _check_split(layers=layers, split_layer=split, tail_layers=tail_layers)
    model_digest = digest.model_digest(files.model)
    shallow = slice.load_slice(
        source, slice.SliceSpec(0, split, embedding=True, lm_head=True), dtype=dtype, torch_device=torch_device
    )
    tail = None
    if tail_layers > 0:
        tail_spec = slice.SliceSpec(layers - tail_layers, layers, embedding=False, lm_head=False)
        tail = slice.load_slice(source, tail_spec, dtype=dtype, torch_device=torch_device)
    drafter = medusa = None
    if files.adapter is not None:
        drafter = drafter_file.load_adapter(
            files.adapter, model_digest=model_digest, split_layer=split, dtype=dtype, torch_device=torch_device
        )
    if files.medusa is not None:
        medusa = drafter_file.load_medusa(
            files.medusa, model_digest=model_digest, dtype=dtype, torch_device=torch_device
        )
    info = compute.DeviceInfo(
        model_digest=model_digest,
        num_layers=layers,
        split_layer=split,
        tail_layers=tail_layers,
        hidden_size=shallow.hidden_size,
        vocab_size=shallow.vocab_size,
        max_positions=shallow.max_positions,
        drafts=drafter is not None,
        num_medusa_heads=medusa.config.num_heads if medusa is not None else 0,
    )
    return submodels.Submodels(shallow=shallow, tail=tail, drafter=drafter, medusa=medusa, info=info)


class DeviceModel:
    """Implements `core.compute.DeviceCompute` over torch.

    The KV caches have room for `max_sessions` sessions of the model's whole context and a probe, or more shorter ones.
    """

    def __init__(
        self,
        modules: submodels.Submodels,
        *,
        codecs: submodels.Codecs,
        executor: executors.ComputeExecutor,
        costs: device_costs.DeviceCosts | None = None,
        max_sessions: int = 8,
        max_wait_s: float = room.MAX_WAIT_S,
    ) -> None:
        self._modules = modules
        self._codecs = codecs
        self._executor = executor
        self._costs = costs
        self._room = room.Room(
            max_positions=modules.info.max_positions, max_sessions=max_sessions, max_wait_s=max_wait_s
        )
        self._caches = submodels.DeviceCaches(
            shallow=self._cache(modules.shallow.kv_spec),
            tail=self._cache(modules.tail.kv_spec) if modules.tail is not None else None,
            drafter=self._cache(modules.drafter.kv_spec) if modules.drafter is not None else None,
        )

    @property
    def info(self) -> compute.DeviceInfo:
        return self._modules.info

    @property
    def used_share(self) -> float:
        """The share of the shallow layers' KV cache that sessions hold, 0 … 1."""
        return self._caches.shallow.used_share

    def bytes_per_position(self, codec: types.Codec) -> float:
        return self._codecs.bytes_per_position(codec, self.info.hidden_size)

    async def open(self, request: types.GenerationRequest, wire: compute.WireFormat) -> session.TorchDeviceSession:
        """See `core.compute.DeviceCompute.open`."""
        pages = await self._room.take(len(request.prompt_ids) + request.max_new_tokens)
        seed = request.sampling.seed
        return session.TorchDeviceSession(
            request,
            wire,
            modules=self._modules,
            caches=self._caches,
            codecs=self._codecs,
            executor=self._executor,
            costs=self._costs,
            seed=seed if seed is not None else secrets.randbits(63),
            on_closed=lambda: self._room.give_back(pages),
        )

    def _cache(self, spec: kv_cache.KVSpec) -> kv_cache.PagedKVCache:
        shallow = self._modules.shallow
        return kv_cache.PagedKVCache(
            spec,
            num_pages=self._room.num_pages,
            page_tokens=room.PAGE_TOKENS,
            dtype=shallow.dtype,
            torch_device=shallow.torch_device,
        )


def _check_split(*, layers: int, split_layer: int, tail_layers: int) -> None:
    """The cloud keeps at least one layer, the device's input submodel too."""
    if not 1 <= split_layer < layers:
        raise errors.SplitOutsideModel(
            f"is {split_layer}, the model has {layers} layers: use 1 to {layers - 1}", field="splitLayer"
        )
    if not 0 <= tail_layers < layers - split_layer:
        raise errors.SplitOutsideModel(
            f"is {tail_layers}, with splitLayer {split_layer} of {layers} layers use 0 to {layers - split_layer - 1}",
            field="tailLayers",
        )
