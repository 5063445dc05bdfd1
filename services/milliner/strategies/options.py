"""The strategies' options as values, after the topology has been validated and its defaults resolved."""

from __future__ import annotations

import dataclasses

from milliner.contract.kinds import ChunkingMode as ChunkingMode
from milliner.contract.kinds import DraftControl as DraftControl
from milliner.core import types


@dataclasses.dataclass(frozen=True, slots=True)
class ChunkingOptions:
    mode: ChunkingMode = ChunkingMode.DYNAMIC
    min_tokens: int = 16
    max_tokens: int = 1024
    fixed_tokens: int = 512


@dataclasses.dataclass(frozen=True, slots=True)
class DraftingOptions:
    """`parallel_branches` is the number of other tokens per acceptance point that are drafted ahead while a
    verification is outstanding; 0 switches parallel drafting off."""

    control: DraftControl = DraftControl.ADAPTIVE
    max_tokens: int = 8
    min_confidence: float = 0.6
    parallel_branches: int = 4


@dataclasses.dataclass(frozen=True, slots=True)
class CodecOptions:
    """`prompt` writes all prompt positions but the last `exact_tail_tokens`; `decode` writes everything else."""

    prompt: types.Codec = types.Codec.FLOAT32
    decode: types.Codec = types.Codec.FLOAT32
    exact_tail_tokens: int = 64


@dataclasses.dataclass(frozen=True, slots=True)
class RecoveryOptions:
    """What happens when the cloud is lost: how long to look for another replica before the request fails."""

    wait_s: float = 30.0
    retry_s: float = 0.2  # between attempts to open a session elsewhere; arbitrary, well below a person's notice


@dataclasses.dataclass(frozen=True, slots=True)
class UShapeOptions:
    chunking: ChunkingOptions = ChunkingOptions(mode=ChunkingMode.NONE)
    medusa: bool = False
    codec: CodecOptions = CodecOptions()
    recovery: RecoveryOptions = RecoveryOptions()


@dataclasses.dataclass(frozen=True, slots=True)
class HatOptions:
    chunking: ChunkingOptions = ChunkingOptions()
    drafting: DraftingOptions = DraftingOptions()
    codec: CodecOptions = CodecOptions()
    recovery: RecoveryOptions = RecoveryOptions()


@dataclasses.dataclass(frozen=True, slots=True)
class PDDeviceOptions:
    """`max_cloud_tokens` bounds what the cloud gives of an answer, or with `fixed_cloud_tokens` says it; tokens are
    shown between `min_interval_s` and `max_interval_s` apart, the latter being the aim for the time per output token.
    `first_token_s` is the aim for the time to the first one. The device goes on from `least_kept` of the prompt at
    least (1: from all of it, which keeps every answer as it is). With `fails_without_cloud` a cloud that is lost before
    it has given its share ends the answer."""

    max_cloud_tokens: int = 512
    fixed_cloud_tokens: bool = False
    min_interval_s: float = 0.005
    max_interval_s: float = 0.05
    first_token_s: float = 2.0
    least_kept: float = 1.0
    fails_without_cloud: bool = False
