"""The answer of a device's `GET /probe`: its last real hidden-state round trip. Pure parsing; `sightings` asks."""

from __future__ import annotations

import re

import pydantic
from pydantic import alias_generators

from milliner_operator.observed import Probe

MAX_AGE_S = 60.0  # an older round trip says nothing of now
_FIELD = re.compile(r"([A-Za-z.]+): ")  # what the errors of the runtime begin with, where they know it
_HOUR_MS, _HOUR_US, _MOST = 3_600_000, 3_600_000_000, 1_000_000  # the bounds that the status has for these figures


class ProbeAnswer(pydantic.BaseModel):
    """The JSON of `GET /probe`; what a later version adds is ignored."""

    model_config = pydantic.ConfigDict(
        extra="ignore",
        frozen=True,
        alias_generator=alias_generators.to_camel,
        validate_by_name=True,
        allow_inf_nan=False,
    )

    ok: bool
    reason: str = pydantic.Field(default="", max_length=1024)
    revision: str = pydantic.Field(default="", max_length=64)
    model_digest: str | None = pydantic.Field(default=None, max_length=128)
    round_trip_microseconds: float | None = pydantic.Field(default=None, ge=0, le=_HOUR_US)
    time_to_first_token_milliseconds: float | None = pydantic.Field(default=None, ge=0, le=_HOUR_MS)
    tokens_per_second: float | None = pydantic.Field(default=None, ge=0, le=_MOST)
    age_seconds: float | None = pydantic.Field(default=None, ge=0)


def parse(text: str, *, pod: str) -> Probe:
    """A pod's answer as a `Probe`; one that cannot be read or is stale is a failed one."""
    try:
        answer = ProbeAnswer.model_validate_json(text)
    except pydantic.ValidationError:
        return Probe(ok=False, reason=f"pod {pod}: answered something else than a probe's result")
    if not answer.ok:
        told = f"pod {pod}: {answer.reason or 'no round trip has succeeded'}"
        return Probe(ok=False, reason=told, field=_field(answer.reason))
    if answer.age_seconds is None or answer.age_seconds >= MAX_AGE_S:
        return Probe(ok=False, reason=f"pod {pod}: the last round trip is {answer.age_seconds or 0:.0f} s old")
    return Probe(
        ok=True,
        reason="",
        model_digest=answer.model_digest or "",
        round_trip_us=round(answer.round_trip_microseconds or 0),
        ttft_ms=round(answer.time_to_first_token_milliseconds or 0),
        tokens_per_second=round(answer.tokens_per_second or 0),
    )


def _field(reason: str) -> str:
    found = _FIELD.match(reason)
    return found[1] if found else ""
