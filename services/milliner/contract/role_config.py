"""Configuration of one role, a JSON file that `python -m milliner.roles` reads; every default is already resolved.

Made by `plan` from a topology; the local runner writes it to a file, the operator to a ConfigMap. Paths are those of
the machine that the role runs on. `load` is the way in.
"""

from __future__ import annotations

import json
import pathlib
from typing import Annotated, Literal

import pydantic

from milliner.contract import base, errors, fields, kinds, operations
from milliner.contract.emulation import CloudEmulation, DeviceEmulation
from milliner.contract.strategy import Chunking, CloudTokens, Drafting, Pacing, Refinement

ListenPort = Annotated[int, pydantic.Field(ge=0, le=65535)]


class ModelFiles(base.Model):
    """The model as a role finds it."""

    path: str = pydantic.Field(min_length=1, description="Checkpoint folder.")
    served_name: str = pydantic.Field(min_length=1, description="Name that clients ask for.")
    dtype: kinds.Dtype = pydantic.Field(description="Numeric type of the weights; Auto is what the checkpoint says.")
    digest: fields.Digest | None = pydantic.Field(
        default=None, description="Digest that the files must have, if pinned."
    )
    source: str | None = pydantic.Field(
        default=None, description="Where the files come from, if `path` is not already filled; the role fetches them."
    )
    cache_dir: str | None = pydantic.Field(default=None, description="Folder that fetched files go to.")
    fingerprint: str | None = pydantic.Field(
        default=None, description="Identity of the files at the source; both tiers must find the same."
    )
    credentials_file: str | None = pydantic.Field(
        default=None, description="File with the token that the source asks for."
    )


class SliceBounds(base.Model):
    """Layers [start, end) of the model."""

    start: int = pydantic.Field(ge=0, description="First layer.")
    end: int = pydantic.Field(ge=1, description="Layer after the last.")


class Listen(base.Model):
    """Where a role listens; port 0 takes any free port, which the role reports when it is ready."""

    host: str = pydantic.Field(default="127.0.0.1", min_length=1, description="Address.")
    port: ListenPort = pydantic.Field(default=0, description="TCP port; 0: any free one.")


class EngineLimits(base.Model):
    """Limits of the built-in engine."""

    max_batch_tokens: int = pydantic.Field(default=2048, ge=1, description="Token budget of one batch.")
    max_frame_tokens: int = pydantic.Field(default=2048, ge=1, description="Most positions in one frame.")
    kv_cache_bytes: int = pydantic.Field(default=1 << 30, ge=1, description="Memory for KV caches, in bytes.")
    kv_swap_bytes: int = pydantic.Field(
        default=0, ge=0, description="Host memory for the KV caches of preempted sequences, in bytes; 0: none move."
    )
    page_tokens: int = pydantic.Field(default=64, ge=1, description="Positions in one page of the KV cache.")
    max_sessions: int = pydantic.Field(default=256, ge=1, description="Most sessions at once.")
    max_batch_sequences: int = pydantic.Field(
        default=64, ge=1, description="Sequences of a whole model that one batch goes on with; others wait."
    )
    max_promised_s: float = pydantic.Field(
        default=30.0,
        gt=0,
        description="Time for the tokens of a whole model that sequences are admitted for, in seconds; who is beyond "
        "that and maxBatchSequences is refused. Default: as long as a device waits for room.",
    )
    session_idle_s: float = pydantic.Field(
        default=300.0, gt=0, description="Idle sessions are closed after this, in seconds."
    )


class TlsFiles(base.Model):
    """Mutual TLS between the tiers; the files are read anew when they change."""

    ca_file: str = pydantic.Field(min_length=1, description="Certificates that the other tier's is signed by, PEM.")
    certificate_file: str = pydantic.Field(min_length=1, description="This tier's certificate, PEM.")
    key_file: str = pydantic.Field(min_length=1, description="Its private key, PEM.")
    server_name: str | None = pydantic.Field(default=None, description="Name that the cloud's certificate must have.")


class TraceExport(base.Model):
    """Export of traces."""

    otlp_endpoint: fields.Url = pydantic.Field(description="OTLP endpoint.")
    sampling_percent: fields.Percent = pydantic.Field(default=10, description="Share of requests, in percent.")


class RoleConfig(base.Model):
    """What both roles have."""

    topology: fields.Label = pydantic.Field(description="Name of the topology.")
    name: fields.Label = pydantic.Field(description="Name of this replica, unique in the topology.")
    model: ModelFiles = pydantic.Field(description="The model's files.")
    listen: Listen = pydantic.Field(default=Listen(), description="Where the role listens.")
    accelerator: kinds.AcceleratorChoice = pydantic.Field(
        default=kinds.AcceleratorChoice.AUTO, description="Which accelerator computes."
    )
    torch_threads: int | None = pydantic.Field(
        default=None, ge=1, le=1024, description="Threads of torch on a CPU. Default: torch's own choice."
    )
    health_port: ListenPort | None = pydantic.Field(
        default=None,
        description="Port of health and metrics apart from `listen`, in plain text, without keys. Default: none.",
    )
    tls: TlsFiles | None = pydantic.Field(default=None, description="Mutual TLS. Default: plain text.")
    tracing: TraceExport | None = pydantic.Field(default=None, description="Export of traces. Default: none.")
    revision: str | None = pydantic.Field(default=None, description="Revision that this replica runs, as told.")
    drain_seconds: int = pydantic.Field(
        default=2, ge=0, le=3600, description="How long what runs may go on when the role is asked to end, in seconds."
    )


class NextStage(base.Model):
    """The stage of a pipeline that takes over where this one ends; its replicas are all alike."""

    endpoints: tuple[str, ...] = pydantic.Field(
        min_length=1, description="host:port of each replica; dns:host:port stands for each address of the name."
    )
    chain_end: int = pydantic.Field(ge=1, description="Layer after the last one of the whole pipeline.")


class CloudRoleConfig(RoleConfig):
    """One cloud replica: layers [start, end) behind a gRPC port; with `next_stage`, the beginning of a pipeline."""

    role: Literal["cloud"] = pydantic.Field(default="cloud", description="Always cloud.")
    slice: SliceBounds = pydantic.Field(description="The layers that it holds.")
    stage: int = pydantic.Field(default=0, ge=0, description="Place in the pipeline; devices speak to stage 0.")
    next_stage: NextStage | None = pydantic.Field(
        default=None, description="The stage behind. Default: this is the last."
    )
    engine: EngineLimits = pydantic.Field(default=EngineLimits(), description="Limits of the engine.")
    emulation: CloudEmulation | None = pydantic.Field(default=None, description="Modelled durations.")


class Split(base.Model):
    """How the model is cut; the cloud has layers [splitLayer, layers − tailLayers)."""

    layers: int = pydantic.Field(ge=2, description="Number of the model's layers.")
    split_layer: int = pydantic.Field(ge=1, description="Layers [0, splitLayer) run on the device.")
    tail_layers: int = pydantic.Field(default=0, ge=0, description="Last layers that run on the device.")

    @property
    def cloud_bounds(self) -> SliceBounds:
        return SliceBounds(start=self.split_layer, end=self.layers - self.tail_layers)

    def stage_bounds(self, stage: int, stages: int) -> SliceBounds:
        """The part of the cloud's layers that a pipeline stage has; the first ones have one more where it is uneven."""
        whole = self.cloud_bounds
        each, more = divmod(whole.end - whole.start, stages)
        start = whole.start + stage * each + min(stage, more)
        return SliceBounds(start=start, end=start + each + (stage < more))


class DeviceStrategy(base.Model):
    """The strategy with every default resolved: drafter folders are paths, codecs are named."""

    type: Literal[kinds.StrategyType.HAT, kinds.StrategyType.U_SHAPE] = pydantic.Field(description="Serving strategy.")
    adapter_path: str | None = pydantic.Field(default=None, description="Folder of the adapter (Hat).")
    heads_path: str | None = pydantic.Field(default=None, description="Folder of the Medusa heads (UShape).")
    adapter_source: str | None = pydantic.Field(default=None, description="Where the adapter comes from, if fetched.")
    heads_source: str | None = pydantic.Field(default=None, description="Where the heads come from, if fetched.")
    drafting: Drafting = pydantic.Field(description="Drafting; control Disabled without a drafter.")
    chunking: Chunking = pydantic.Field(description="Cutting of the prompt.")
    prompt_codec: kinds.Codec = pydantic.Field(description="Codec of prompt positions.")
    exact_tail_tokens: int = pydantic.Field(default=64, ge=0, description="Last prompt positions in the decode codec.")
    decode_codec: kinds.Codec = pydantic.Field(description="Codec of verification frames and replies.")


class AnsweringRoleConfig(RoleConfig):
    """What every device has, whatever answers: HTTP in front, perhaps a link behind."""

    pool: fields.PoolName = pydantic.Field(description="The pool that it belongs to.")
    max_concurrent_requests: int = pydantic.Field(default=8, ge=1, description="Requests served at once.")
    objectives: operations.Objectives = pydantic.Field(default=operations.Objectives(), description="Aims.")
    fallback: operations.Fallback = pydantic.Field(default=operations.Fallback(), description="On cloud loss.")
    emulation: DeviceEmulation | None = pydantic.Field(default=None, description="Modelled link and durations.")
    api_keys_dir: str | None = pydantic.Field(
        default=None, description="Folder each of whose files holds an API key. Default: no key asked for."
    )

    @property
    def strategy_type(self) -> kinds.StrategyType:
        """The strategy by which it answers."""
        raise NotImplementedError


class DeviceRoleConfig(AnsweringRoleConfig):
    """One device of a split strategy: hidden states to the cloud."""

    role: Literal["device"] = pydantic.Field(default="device", description="Always device.")
    split: Split = pydantic.Field(description="How the model is cut.")
    strategy: DeviceStrategy = pydantic.Field(description="How answers are made.")
    cloud_endpoints: tuple[str, ...] = pydantic.Field(
        min_length=1,
        description="host:port of each cloud replica; dns:host:port stands for each address of the name, file:path for "
        "the lines of a file, which is read again whenever a session is opened.",
    )

    @property
    def strategy_type(self) -> kinds.StrategyType:
        return self.strategy.type


class PrefillRoleConfig(RoleConfig):
    """One cloud replica that runs a model whole: it computes prompts and gives the tokens that follow."""

    role: Literal["prefill"] = pydantic.Field(default="prefill", description="Always prefill.")
    layers: int = pydantic.Field(ge=1, description="Number of the model's layers.")
    engine: EngineLimits = pydantic.Field(default=EngineLimits(), description="Limits of the engine.")
    scheduler: kinds.SchedulerType = pydantic.Field(
        default=kinds.SchedulerType.FIRST_COME_FIRST_SERVED, description="Order in which sequences are served."
    )
    emulation: CloudEmulation | None = pydantic.Field(default=None, description="Modelled durations.")


class ExternalServer(base.Model):
    """A server of somebody else's that runs the cloud's model: token ids in and out over HTTP."""

    url: fields.Url = pydantic.Field(description="Base URL, such as http://vllm:8000/v1.")
    model: str | None = pydantic.Field(
        default=None, min_length=1, description="Name of the model there. Default: the only one that it lists."
    )
    api_key_file: str | None = pydantic.Field(
        default=None, min_length=1, description="File with the key that it asks for, read again when it changes."
    )


class WholeStrategy(base.Model):
    """A strategy over whole models, with every default resolved."""

    type: Literal[kinds.StrategyType.PD_DEVICE, kinds.StrategyType.CLOUD_ONLY, kinds.StrategyType.DEVICE_ONLY] = (
        pydantic.Field(description="Serving strategy.")
    )
    cloud_tokens: CloudTokens = pydantic.Field(default=CloudTokens(), description="The cloud's share (PDDevice).")
    refinement: Refinement = pydantic.Field(default=Refinement(), description="Shortening of the prompt (PDDevice).")
    pacing: Pacing = pydantic.Field(default=Pacing(), description="Speed at which tokens are shown (PDDevice).")


class WholeDeviceRoleConfig(AnsweringRoleConfig):
    """One device of a strategy over whole models: one of its own, one in the cloud, or both."""

    role: Literal["whole-device"] = pydantic.Field(default="whole-device", description="Always whole-device.")
    layers: int = pydantic.Field(ge=1, description="Number of the layers of the device's model.")
    strategy: WholeStrategy = pydantic.Field(description="How answers are made.")
    cloud_model_digest: fields.Digest | None = pydantic.Field(
        default=None, description="Model that the cloud must run. Default: any with the same tokenizer."
    )
    engine: EngineLimits = pydantic.Field(default=EngineLimits(), description="Limits of the device's own engine.")
    cloud_endpoints: tuple[str, ...] = pydantic.Field(
        default=(), description="host:port of each cloud replica, as for split strategies; none with DeviceOnly."
    )
    external: ExternalServer | None = pydantic.Field(
        default=None, description="The server that takes the place of cloud replicas. Default: none does."
    )

    @property
    def strategy_type(self) -> kinds.StrategyType:
        return self.strategy.type


Config = CloudRoleConfig | DeviceRoleConfig | PrefillRoleConfig | WholeDeviceRoleConfig
_BY_ROLE: dict[object, type[Config]] = {
    "cloud": CloudRoleConfig,
    "device": DeviceRoleConfig,
    "prefill": PrefillRoleConfig,
    "whole-device": WholeDeviceRoleConfig,
}


def load(path: pathlib.Path) -> Config:
    """Reads a role's configuration; raises `DocumentError` or `SpecInvalid` naming file and field (*expected*)."""
    document = read_document(path)
    role = document.get("role") if isinstance(document, dict) else None
    found = _BY_ROLE.get(role) if isinstance(role, str) else None
    if found is None:
        known = ", ".join(map(str, _BY_ROLE))
        raise errors.SpecInvalid([errors.Problem("role", f"found {role!r}, use one of {known}")], origin=str(path))
    return base.parse(found, document, origin=str(path))


def read_document(path: pathlib.Path) -> object:
    """The JSON in a role's configuration file; raises `DocumentError` (*expected*)."""
    try:
        document: object = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise errors.DocumentError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise errors.DocumentError(f"{path}: not JSON: {error}") from None
    return document
