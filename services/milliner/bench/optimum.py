"""What time to first token a preset allows: TTFT(X) of docs/algorithms.md in chunks of X tokens, minimised over X.

``TTFT(X) = s(X) + u(X) + g(X) + (⌈L/X⌉ - 1) · max{s(X), u(X), g(X)} + round trip + reply + head``

s(X) are the device's shallow layers, u(X) = A·X/β the upload, g(X) the cloud's layers; the reply is one float16
position down, and the head picks the token. One chunk (X = L) is UShape. Where the prompt's codec is not float16 its
last 64 positions still are, so A is the mean over the prompt. One user, no other load (μ = 0), and no
cost of the transport. Chunks are all of X tokens here; a schedule with unequal ones can be up to 5 % faster on short
int4 prompts. Pure arithmetic, no torch; called by `bench.summary` and `bench.paper_wifi`.
"""

from __future__ import annotations

import dataclasses

from milliner.bench import presets
from milliner.core import types

_REPLY_CODEC = types.Codec.FLOAT16


@dataclasses.dataclass(frozen=True, slots=True)
class Optimum:
    """The chunk size that minimises TTFT(X), and that TTFT."""

    chunk_tokens: int
    ttft_s: float


def mean_bytes_per_position(
    codec: types.Codec, hidden_size: int, prompt_tokens: int, *, exact_tail_tokens: int = presets.EXACT_TAIL_TOKENS
) -> float:
    """Bytes per prompt position with the codec, the last `exact_tail_tokens` positions in float16."""
    exact = min(exact_tail_tokens, prompt_tokens)
    coded = prompt_tokens - exact
    total = coded * presets.bytes_per_position(codec, hidden_size)
    total += exact * presets.bytes_per_position(types.Codec.FLOAT16, hidden_size)
    return total / prompt_tokens


def ttft_s(
    preset: presets.Preset,
    *,
    prompt_tokens: int,
    chunk_tokens: int,
    codec: types.Codec,
    exact_tail_tokens: int = presets.EXACT_TAIL_TOKENS,
) -> float:
    """TTFT(X) in seconds for X = `chunk_tokens`; with X = `prompt_tokens` it is UShape's."""
    width = preset.hidden_size
    bytes_each = mean_bytes_per_position(codec, width, prompt_tokens, exact_tail_tokens=exact_tail_tokens)
    stages = (
        preset.device.shallow.duration_s(chunk_tokens),
        bytes_each * chunk_tokens / preset.link.uplink_bytes_per_s,
        preset.cloud.duration_s(chunk_tokens),
    )
    num_chunks = -(-prompt_tokens // chunk_tokens)
    reply_s = presets.bytes_per_position(_REPLY_CODEC, width) / preset.link.downlink_bytes_per_s
    after_s = preset.link.round_trip_s + reply_s + preset.device.head.duration_s(1)
    return sum(stages) + (num_chunks - 1) * max(stages) + after_s


def optimum(
    preset: presets.Preset,
    *,
    prompt_tokens: int,
    codec: types.Codec,
    exact_tail_tokens: int = presets.EXACT_TAIL_TOKENS,
) -> Optimum:
    """The least TTFT(X) over all X from 1 to the whole prompt."""
    return min(
        (
            Optimum(
                chunk_tokens=chunk,
                ttft_s=ttft_s(
                    preset,
                    prompt_tokens=prompt_tokens,
                    chunk_tokens=chunk,
                    codec=codec,
                    exact_tail_tokens=exact_tail_tokens,
                ),
            )
            for chunk in range(1, prompt_tokens + 1)
        ),
        key=lambda found: found.ttft_s,
    )


def plain_step_s(preset: presets.Preset) -> float:
    """One plain decode step of UShape: shallow, a float16 position each way, cloud, head."""
    position_bytes = presets.bytes_per_position(_REPLY_CODEC, preset.hidden_size)
    link = preset.link
    wire_s = position_bytes / link.uplink_bytes_per_s + position_bytes / link.downlink_bytes_per_s
    return (
        preset.device.shallow.duration_s(1)
        + wire_s
        + link.round_trip_s
        + preset.cloud.duration_s(1)
        + preset.device.head.duration_s(1)
    )
