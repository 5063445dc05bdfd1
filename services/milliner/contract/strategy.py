"""`spec.strategy`: which strategy serves, and the options of each; exactly the group of the chosen type may be set."""

from __future__ import annotations

from typing import Annotated

import pydantic

from milliner.contract import base, fields, kinds

# No published decoder has more; the true bound is the model's and is checked once it is known (`model_checks`).
SplitLayer = Annotated[int, pydantic.Field(ge=1, le=1024)]
TailLayers = Annotated[int, pydantic.Field(ge=0, le=1023)]


class DrafterSource(base.Model):
    """Files of an adapter or of Medusa heads, as `milliner train-adapter` writes them."""

    source: fields.Source = pydantic.Field(description="Folder of the drafter; the same forms as model.source.")


class Drafting(base.Model):
    """How tokens are drafted on the device between verifications."""

    control: kinds.DraftControl = pydantic.Field(
        default=kinds.DraftControl.ADAPTIVE,
        description="Adaptive: length chosen online from measured acceptance and round trip, none while it loses. "
        "Fixed: always maxTokens, less where confidence ends a draft. Disabled: no drafting.",
    )
    max_tokens: int = pydantic.Field(default=8, ge=1, le=32, description="Longest draft of a round, in tokens.")
    min_confidence_percent: fields.Percent = pydantic.Field(
        default=60, description="A draft ends after a token whose probability is below this, in percent; 0: never."
    )
    parallel_branches: int = pydantic.Field(
        default=4,
        ge=0,
        le=64,
        description="Other tokens per acceptance point that are drafted ahead while a verification is outstanding; "
        "0: no parallel drafting.",
    )


class Chunking(base.Model):
    """How a prompt is cut so that upload and cloud computation run in parallel."""

    mode: kinds.ChunkingMode = pydantic.Field(
        default=kinds.ChunkingMode.DYNAMIC,
        description="None: the prompt in one piece. Fixed: pieces of `tokens`. Dynamic: size chosen for each chunk "
        "from measured bandwidth and cloud load.",
    )
    tokens: int = pydantic.Field(
        default=512,
        ge=1,
        le=65_536,
        description="Size of a chunk with mode Fixed, in tokens; not to be set with another mode. Default: 512.",
        json_schema_extra={fields.UNSET_MATTERS: True},
    )
    min_tokens: int = pydantic.Field(
        default=16, ge=1, le=65_536, description="Smallest chunk with mode Dynamic, in tokens."
    )
    max_tokens: int = pydantic.Field(
        default=1024, ge=1, le=65_536, description="Largest chunk with mode Dynamic, in tokens."
    )


class WireCodec(base.Model):
    """One codec for prompt positions, one for all others."""

    prompt: kinds.Codec | None = pydantic.Field(
        default=None, description="Codec of prompt positions. Default: the model's dtype."
    )
    exact_tail_tokens: int = pydantic.Field(
        default=64,
        ge=0,
        le=65_536,
        description="The prompt's last positions that go with the decode codec instead of the prompt's, in tokens.",
    )
    decode: kinds.Codec | None = pydantic.Field(
        default=None, description="Codec of verification frames and of replies. Default: the model's dtype."
    )


class HatOptions(base.Model):
    """Options of strategy Hat: drafts on the device, verification through the cloud."""

    split_layer: SplitLayer | None = pydantic.Field(
        default=None,
        description="Layers [0, splitLayer) run on the device. Default: the adapter's; without one 2, from 40 layers "
        "on 3.",
    )
    tail_layers: TailLayers = pydantic.Field(
        default=0, description="The model's last layers that run on the device too, beside final norm and lm_head."
    )
    adapter: DrafterSource | None = pydantic.Field(
        default=None,
        description="The adapter that drafts. Default: the one that ships with the model (builtin://demo).",
    )
    drafting: Drafting = pydantic.Field(default=Drafting(), description="Drafting on the device.")
    chunking: Chunking = pydantic.Field(default=Chunking(), description="Cutting of the prompt.")
    codec: WireCodec = pydantic.Field(default=WireCodec(), description="Form of hidden states on the wire.")


class UShapeChunking(Chunking):
    """Chunking of strategy UShape: off unless asked for."""

    mode: kinds.ChunkingMode = pydantic.Field(
        default=kinds.ChunkingMode.NONE,
        description="None: the prompt in one piece. Fixed: pieces of `tokens` (U-Sarathi). Dynamic: as with Hat.",
    )


class UShapeOptions(base.Model):
    """Options of strategy UShape: split, no adapter; Fixed chunks make it U-Sarathi, heads U-Medusa."""

    split_layer: SplitLayer | None = pydantic.Field(
        default=None,
        description="Layers [0, splitLayer) run on the device. Default: that of the heads; without them 2, from 40 "
        "layers on 3.",
    )
    tail_layers: TailLayers = pydantic.Field(
        default=0, description="The model's last layers that run on the device too, beside final norm and lm_head."
    )
    chunking: UShapeChunking = pydantic.Field(default=UShapeChunking(), description="Cutting of the prompt.")
    heads: DrafterSource | None = pydantic.Field(
        default=None, description="Medusa heads that draft on the device (U-Medusa). Default: no drafting."
    )
    codec: WireCodec = pydantic.Field(default=WireCodec(), description="Form of hidden states on the wire.")


class CloudTokens(base.Model):
    """How many tokens of an answer the cloud generates before the device takes over."""

    mode: kinds.CloudTokensMode = pydantic.Field(
        default=kinds.CloudTokensMode.AUTO,
        description="Auto: computed for each request. Fixed: always `max`, unless the cloud is slower than the device.",
    )
    max: int = pydantic.Field(default=512, ge=1, le=65_536, description="Most tokens of an answer from the cloud.")


class Refinement(base.Model):
    """Shortening of the prompt for the device by what the cloud's prefill attended to."""

    mode: kinds.RefinementMode = pydantic.Field(
        default=kinds.RefinementMode.OFF,
        description="Disabled: the device prefills the whole prompt. Auto: less where that spares the cloud time; "
        "answers change by it. Whole all the same with cloudTokens.mode Fixed, and with an external engine.",
    )
    min_keep_percent: int = pydantic.Field(
        default=30, ge=1, le=100, description="Least share of prompt positions that is kept with mode Auto, in percent."
    )


class Pacing(base.Model):
    """The speed at which buffered cloud tokens are shown."""

    min_interval_milliseconds: int = pydantic.Field(
        default=5, ge=0, le=10_000, description="Shortest interval between two shown tokens, in milliseconds."
    )
    max_interval_milliseconds: int = pydantic.Field(
        default=50,
        ge=1,
        le=10_000,
        description="Longest interval between two shown tokens, in milliseconds; "
        "objectives.timePerOutputTokenMilliseconds holds where it is less.",
    )


class PDDeviceOptions(base.Model):
    """Options of strategy PDDevice: the cloud starts the answer, the device takes over."""

    cloud_tokens: CloudTokens = pydantic.Field(default=CloudTokens(), description="The cloud's share of an answer.")
    refinement: Refinement = pydantic.Field(default=Refinement(), description="Shortening of the device's prompt.")
    pacing: Pacing = pydantic.Field(default=Pacing(), description="Speed at which cloud tokens are shown.")
    scheduler: kinds.SchedulerType = pydantic.Field(
        default=kinds.SchedulerType.FIRST_COME_FIRST_SERVED, description="Order in which the cloud serves requests."
    )


class StrategySpec(base.Model):
    """A union by `type`: only the group of the chosen type may be set; CloudOnly and DeviceOnly have none."""

    type: kinds.StrategyType = pydantic.Field(description="The serving strategy.")
    hat: HatOptions | None = pydantic.Field(default=None, description="Options of type Hat.")
    u_shape: UShapeOptions | None = pydantic.Field(default=None, description="Options of type UShape.")
    pd_device: PDDeviceOptions | None = pydantic.Field(default=None, description="Options of type PDDevice.")
