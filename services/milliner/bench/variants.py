"""What each measured strategy is, as the strategies' own options. Pure.

All variants share codec rules (the row's codec for the prompt, its last 64 positions and everything after in float16)
and every other default; what differs is what the name says.
"""

from __future__ import annotations

from milliner.bench import plan, presets
from milliner.core import types
from milliner.strategies import options

# U-Sarathi's fixed chunk. Arbitrary: at 2,048 tokens within 4 % of the best constant size with each codec (modelled).
SARATHI_CHUNK_TOKENS = 256

Name = plan.StrategyName


def strategy_options(variant: plan.Variant) -> options.HatOptions | options.UShapeOptions:
    """The options of a variant, for `strategies.factory`."""
    codec = options.CodecOptions(
        prompt=presets.CODEC_NAMES[variant.codec],
        decode=types.Codec.FLOAT16,
        exact_tail_tokens=presets.EXACT_TAIL_TOKENS,
    )
    match variant.strategy:
        case Name.USHAPE:
            return options.UShapeOptions(codec=codec)
        case Name.USARATHI:
            chunking = options.ChunkingOptions(mode=options.ChunkingMode.FIXED, fixed_tokens=SARATHI_CHUNK_TOKENS)
            return options.UShapeOptions(codec=codec, chunking=chunking)
        case Name.UMEDUSA:
            return options.UShapeOptions(codec=codec, medusa=True)
        case Name.HAT:
            return options.HatOptions(codec=codec)
        case Name.HAT_SEQUENTIAL:
            return options.HatOptions(codec=codec, drafting=options.DraftingOptions(parallel_branches=0))


def drafts_with_adapter(strategy: plan.StrategyName) -> bool:
    """Whether the device of this strategy holds an adapter."""
    return strategy in (Name.HAT, Name.HAT_SEQUENTIAL)
