"""Constants of the bench presets: a 7B model split between an Orin-class device, Wi-Fi and an A6000-class cloud.

Source of every figure of `PAPER_WIFI`: docs/algorithms.md, "The preset and its targets" (sizes of a model with d = 4096
and 32 layers, two of them on the device). Bandwidths are scaled by the width of the model that really runs, so that a
position takes as long on the link as at d = 4096; `time_scale` multiplies every duration of link and compute alike, so
that ratios hold on machines too slow for the real ones. Pure values; `bench.paper_wifi` turns them into an emulated
link and role configurations.
"""

from __future__ import annotations

import dataclasses

from milliner.core import compute, errors, types


class PresetError(errors.ConfigError):
    """A preset or a scale that does not exist; the field is the command line's option."""


@dataclasses.dataclass(frozen=True, slots=True)
class Link:
    """The link of one device. Bandwidths in bytes per second at the preset's own width."""

    uplink_bytes_per_s: float
    downlink_bytes_per_s: float
    round_trip_s: float
    jitter_s: float
    loss_share: float = 0.0  # of packets, 0 to below 1


@dataclasses.dataclass(frozen=True, slots=True)
class DeviceCosts:
    """Modelled durations of the device's calls.

    `adapter_*` is a draft step without its shallow layers: the adapter and lm_head; `per_token_s` of it is what a
    prompt position costs the adapter on the way (scaled from the shallow layers').
    """

    shallow: compute.ComputeCost
    head: compute.ComputeCost
    adapter_attention: compute.ComputeCost
    adapter_layer: compute.ComputeCost
    medusa: compute.ComputeCost
    per_branch_s: float  # of a batched draft step, for each branch beyond the first

    def scaled(self, factor: float) -> DeviceCosts:
        return DeviceCosts(
            shallow=_scaled(self.shallow, factor),
            head=_scaled(self.head, factor),
            adapter_attention=_scaled(self.adapter_attention, factor),
            adapter_layer=_scaled(self.adapter_layer, factor),
            medusa=_scaled(self.medusa, factor),
            per_branch_s=self.per_branch_s * factor,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Preset:
    """One emulated world: a model's width, a link, a device and a cloud."""

    name: str
    hidden_size: int
    link: Link
    device: DeviceCosts
    cloud: compute.ComputeCost
    time_scale: float = 1.0

    def for_model(self, *, hidden_size: int, time_scale: float = 1.0) -> Preset:
        """The same world for a model of another width, slowed by `time_scale`. Raises `PresetError`."""
        if not time_scale > 0:
            raise PresetError(f"is {time_scale:g}: a factor above 0 is needed", field="--time-scale")
        byte_rate = hidden_size / self.hidden_size / time_scale
        return dataclasses.replace(
            self,
            hidden_size=hidden_size,
            time_scale=self.time_scale * time_scale,
            link=Link(
                uplink_bytes_per_s=self.link.uplink_bytes_per_s * byte_rate,
                downlink_bytes_per_s=self.link.downlink_bytes_per_s * byte_rate,
                round_trip_s=self.link.round_trip_s * time_scale,
                jitter_s=self.link.jitter_s * time_scale,
                loss_share=self.link.loss_share,
            ),
            device=self.device.scaled(time_scale),
            cloud=_scaled(self.cloud, time_scale),
        )

    def without_jitter(self) -> Preset:
        """The same world with every delay at its mean, where what varies should be something else."""
        return dataclasses.replace(self, link=dataclasses.replace(self.link, jitter_s=0.0))


def _scaled(cost: compute.ComputeCost, factor: float) -> compute.ComputeCost:
    return compute.ComputeCost(fixed_s=cost.fixed_s * factor, per_token_s=cost.per_token_s * factor)


_SHALLOW = compute.ComputeCost(fixed_s=6e-3, per_token_s=65e-6)
_DRAFT_STEP_ATTENTION_S = 9.5e-3  # shallow layers, attention-only adapter and head of one token
_DRAFT_STEP_LAYER_S = 10.9e-3  # the same with a whole layer as the adapter
_LAYER_PER_TOKEN_S = _SHALLOW.per_token_s / 2  # of a prompt position in one layer: the shallow layers are two
_ATTENTION_SHARE = 67 / 202  # parameters of the adapter `Attention` over those of a 7B model's layer

PAPER_WIFI = Preset(
    name="paper-wifi",
    hidden_size=4096,
    link=Link(uplink_bytes_per_s=10e6, downlink_bytes_per_s=20e6, round_trip_s=20e-3, jitter_s=2e-3),
    device=DeviceCosts(
        shallow=_SHALLOW,
        head=compute.ComputeCost(fixed_s=2e-3, per_token_s=30e-6),
        adapter_attention=compute.ComputeCost(
            fixed_s=_DRAFT_STEP_ATTENTION_S - _SHALLOW.duration_s(1), per_token_s=_ATTENTION_SHARE * _LAYER_PER_TOKEN_S
        ),
        adapter_layer=compute.ComputeCost(
            fixed_s=_DRAFT_STEP_LAYER_S - _SHALLOW.duration_s(1), per_token_s=_LAYER_PER_TOKEN_S
        ),
        medusa=compute.ComputeCost(fixed_s=3e-3),
        per_branch_s=0.1e-3,
    ),
    cloud=compute.ComputeCost(fixed_s=24e-3, per_token_s=210e-6),
)

PRESETS = {PAPER_WIFI.name: PAPER_WIFI}

CODEC_NAMES = {
    "float32": types.Codec.FLOAT32,
    "bfloat16": types.Codec.BFLOAT16,
    "float16": types.Codec.FLOAT16,
    "int8": types.Codec.INT8,
    "int4": types.Codec.INT4,
}
"""Codec names of the command line and of the reports' rows."""

EXACT_TAIL_TOKENS = 64  # the last prompt positions go as float16 (docs/algorithms.md)

_CODEC_BYTES_PER_VALUE = {
    types.Codec.FLOAT32: 4.0,
    types.Codec.BFLOAT16: 2.0,
    types.Codec.FLOAT16: 2.0,
    types.Codec.INT8: 1.0,
    types.Codec.INT4: 0.5,
}
_INT4_GROUP = 64  # values that share one float16 scale (docs/algorithms.md: 0.266 of float16's bytes)
_SCALE_BYTES = 2


def bytes_per_position(codec: types.Codec, hidden_size: int) -> float:
    """Bytes of one position of `hidden_size` values on the wire, scales included (docs/algorithms.md)."""
    scales = {types.Codec.INT8: 1.0, types.Codec.INT4: hidden_size / _INT4_GROUP}.get(codec, 0.0)
    return _CODEC_BYTES_PER_VALUE[codec] * hidden_size + scales * _SCALE_BYTES


def preset(name: str) -> Preset:
    """The preset of that name. Raises `PresetError` with the names there are."""
    if name not in PRESETS:
        raise PresetError(f"there is no preset {name!r}: use {', '.join(sorted(PRESETS))}", field="--preset")
    return PRESETS[name]
