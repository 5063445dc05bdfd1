"""Names of span attributes. `gen_ai.*` and `error.type` are OpenTelemetry's semantic conventions for generative AI
(https://opentelemetry.io/docs/specs/semconv/gen-ai/); `milliner.*` are ours."""

from __future__ import annotations

from typing import Final

PROVIDER: Final = "milliner"

OPERATION_NAME: Final = "gen_ai.operation.name"
PROVIDER_NAME: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
REQUEST_TOP_P: Final = "gen_ai.request.top_p"
REQUEST_TOP_K: Final = "gen_ai.request.top_k"
REQUEST_SEED: Final = "gen_ai.request.seed"
RESPONSE_ID: Final = "gen_ai.response.id"
RESPONSE_MODEL: Final = "gen_ai.response.model"
RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
RESPONSE_TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"  # seconds
USAGE_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
USAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
USAGE_CACHED_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
ERROR_TYPE: Final = "error.type"

STRATEGY: Final = "milliner.strategy"
TOPOLOGY: Final = "milliner.topology"
TIER: Final = "milliner.tier"
ROUND_INDEX: Final = "milliner.round.index"
ROUND_KIND: Final = "milliner.round.kind"
ROUND_TOKENS: Final = "milliner.round.emitted_tokens"
PHASE_HIDDEN: Final = "milliner.phase.hidden"  # true: ran while another phase was on the critical path
PHASE_REPORTED_S: Final = "milliner.phase.reported_s"  # what the other tier reported, where less was waited for
PHASES_S_PREFIX: Final = "milliner.phases_s."  # + phase: total seconds on the critical path
COUNTER_PREFIX: Final = "milliner.count."  # + counter of RequestRecord.count
FRAME_START_POS: Final = "milliner.frame.start_pos"
FRAME_TOKENS: Final = "milliner.frame.tokens"
BATCHED_TOKENS: Final = "milliner.batched_tokens"
