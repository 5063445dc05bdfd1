"""Emulation: a link and submodels that take as long as hardware that is not there. Pure numbers; nothing sleeps.

`scaled` slows link and compute alike, so that ratios hold on a machine too slow for the modelled durations.
"""

from __future__ import annotations

from typing import Annotated

import pydantic

from milliner.contract import base, fields

KilobitsPerSecond = Annotated[int, pydantic.Field(ge=1, le=1_000_000_000)]
MIN_TIME_SCALE, MAX_TIME_SCALE = 0.01, 1000.0  # arbitrary: beyond them the integers of the schema lose meaning


def check_time_scale(factor: float) -> float:
    """Returns the factor; raises ValueError (*expected*) outside [MIN_TIME_SCALE, MAX_TIME_SCALE]."""
    if not MIN_TIME_SCALE <= factor <= MAX_TIME_SCALE:
        raise ValueError(f"time scale {factor} is out of range: use {MIN_TIME_SCALE} to {MAX_TIME_SCALE:.0f}")
    return factor


class LinkEmulation(base.Model):
    """A link between device and cloud; each device replica has one of its own."""

    uplink_kilobits_per_second: KilobitsPerSecond = pydantic.Field(
        default=80_000, description="Bandwidth from device to cloud, in kilobits (1,000 bits) per second."
    )
    downlink_kilobits_per_second: KilobitsPerSecond = pydantic.Field(
        default=160_000, description="Bandwidth from cloud to device, in kilobits (1,000 bits) per second."
    )
    round_trip_milliseconds: int = pydantic.Field(
        default=20, ge=0, le=60_000, description="Round trip without load, in milliseconds; half of it each way."
    )
    jitter_milliseconds: int = pydantic.Field(
        default=2, ge=0, le=60_000, description="Largest deviation from the one-way delay, in milliseconds."
    )
    loss_permille: int = pydantic.Field(
        default=0, ge=0, le=500, description="Share of packets lost, in permille; each costs a retransmission's delay."
    )

    def scaled(self, factor: float) -> LinkEmulation:
        """The same link, `factor` times as slow."""
        check_time_scale(factor)
        return LinkEmulation(
            uplink_kilobits_per_second=max(1, round(self.uplink_kilobits_per_second / factor)),
            downlink_kilobits_per_second=max(1, round(self.downlink_kilobits_per_second / factor)),
            round_trip_milliseconds=round(self.round_trip_milliseconds * factor),
            jitter_milliseconds=round(self.jitter_milliseconds * factor),
            loss_permille=self.loss_permille,
        )

    @property
    def uplink_bytes_per_s(self) -> float:
        return self.uplink_kilobits_per_second * 125.0

    @property
    def downlink_bytes_per_s(self) -> float:
        return self.downlink_kilobits_per_second * 125.0

    @property
    def round_trip_s(self) -> float:
        return self.round_trip_milliseconds / 1e3

    @property
    def jitter_s(self) -> float:
        return self.jitter_milliseconds / 1e3

    @property
    def loss_share(self) -> float:
        return self.loss_permille / 1e3


class CallCost(base.Model):
    """Modelled duration of one call of a submodel: fixed + per token. Real compute is padded up to it."""

    fixed_microseconds: fields.Microseconds = pydantic.Field(
        default=0, description="Duration of a call apart from its tokens, in microseconds."
    )
    per_token_microseconds: fields.Microseconds = pydantic.Field(
        default=0, description="Duration added by each token of the call, in microseconds."
    )

    def scaled(self, factor: float) -> CallCost:
        """The same submodel, `factor` times as slow."""
        check_time_scale(factor)
        return CallCost(
            fixed_microseconds=round(self.fixed_microseconds * factor),
            per_token_microseconds=round(self.per_token_microseconds * factor),
        )

    def share(self, part: int, whole: int) -> CallCost:
        """The cost of `part` of the submodel's `whole` layers."""
        return CallCost(
            fixed_microseconds=round(self.fixed_microseconds * part / whole),
            per_token_microseconds=round(self.per_token_microseconds * part / whole),
        )

    def duration_s(self, num_tokens: int) -> float:
        """Modelled duration of a call over `num_tokens`, in seconds."""
        return (self.fixed_microseconds + self.per_token_microseconds * num_tokens) / 1e6


class WholeModelCost(base.Model):
    """Modelled durations of a whole model on the device: prompt tokens one by one, a step for each generated token."""

    prompt_token_microseconds: fields.Microseconds = pydantic.Field(
        default=0, description="Duration of each token of a prompt, in microseconds."
    )
    step_microseconds: fields.Microseconds = pydantic.Field(
        default=0, description="Duration of a pass that generates tokens, and the least of any, in microseconds."
    )

    def scaled(self, factor: float) -> WholeModelCost:
        """The same model, `factor` times as slow."""
        check_time_scale(factor)
        return WholeModelCost(
            prompt_token_microseconds=round(self.prompt_token_microseconds * factor),
            step_microseconds=round(self.step_microseconds * factor),
        )


class DeviceCompute(base.Model):
    """Modelled durations of the device's submodels; a submodel that is absent runs as fast as it can."""

    shallow: CallCost | None = pydantic.Field(default=None, description="Embedding and layers [0, splitLayer).")
    adapter: CallCost | None = pydantic.Field(
        default=None, description="Adapter with lm_head; a draft step is one call of shallow and one of adapter."
    )
    head: CallCost | None = pydantic.Field(
        default=None, description="Tail layers, final norm and lm_head on what came back from the cloud."
    )
    medusa: CallCost | None = pydantic.Field(default=None, description="All Medusa heads together.")
    whole_model: WholeModelCost | None = pydantic.Field(
        default=None, description="The device's own model, with PDDevice and DeviceOnly."
    )
    per_branch_microseconds: fields.Microseconds = pydantic.Field(
        default=0, description="Added for each further branch of a batched draft step, in microseconds."
    )

    def scaled(self, factor: float) -> DeviceCompute:
        """The same device, `factor` times as slow."""
        return DeviceCompute(
            shallow=self.shallow and self.shallow.scaled(factor),
            adapter=self.adapter and self.adapter.scaled(factor),
            head=self.head and self.head.scaled(factor),
            medusa=self.medusa and self.medusa.scaled(factor),
            whole_model=self.whole_model and self.whole_model.scaled(factor),
            per_branch_microseconds=round(self.per_branch_microseconds * factor),
        )


class DeviceEmulation(base.Model):
    """A slow link and slow submodels, in place of those that the hardware has."""

    link: LinkEmulation | None = pydantic.Field(default=None, description="The emulated link. Default: the real one.")
    compute: DeviceCompute | None = pydantic.Field(
        default=None, description="Modelled durations of the submodels. Default: as fast as the node is."
    )

    def scaled(self, factor: float) -> DeviceEmulation:
        """Link and compute, `factor` times as slow."""
        return DeviceEmulation(
            link=self.link and self.link.scaled(factor), compute=self.compute and self.compute.scaled(factor)
        )


class CloudCompute(base.Model):
    """Modelled durations of the cloud's submodel."""

    layers: CallCost | None = pydantic.Field(
        default=None, description="The cloud's layers: one call per batch, over all its tokens."
    )


class CloudEmulation(base.Model):
    """Durations of an accelerator that is not there."""

    compute: CloudCompute | None = pydantic.Field(
        default=None, description="Modelled durations. Default: as fast as the node is."
    )

    def scaled(self, factor: float) -> CloudEmulation:
        """The same cloud, `factor` times as slow."""
        layers = self.compute.layers if self.compute else None
        return CloudEmulation(compute=self.compute and CloudCompute(layers=layers and layers.scaled(factor)))

    def share(self, part: int, whole: int) -> CloudEmulation:
        """A stage that has `part` of the cloud's `whole` layers."""
        layers = self.compute.layers if self.compute else None
        return CloudEmulation(compute=self.compute and CloudCompute(layers=layers and layers.share(part, whole)))
