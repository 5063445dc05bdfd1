"""The topology of `milliner demo`: one cloud, and a device for each strategy that is compared, all on the same link.

The demo's own topology (`demo.yaml`) is taken as it is; the variants differ in strategy and codec alone, so that what
is seen beside each other differs for that reason alone.
"""

from __future__ import annotations

import dataclasses
import pathlib

from milliner.contract import kinds, strategy, topology
from milliner.core import errors
from milliner.demo import assets
from milliner.local import launches

_FILE = "python-zoneinfo-_zoneinfo.txt"  # its continuation by the demo model reads like code


@dataclasses.dataclass(frozen=True, slots=True)
class Variant:
    """One device of the demonstration."""

    name: str  # of its process
    title: str
    strategy: strategy.StrategySpec


def variants(prompt_codec: kinds.Codec = kinds.Codec.FLOAT16) -> tuple[Variant, ...]:
    """The baseline first. Both write the prompt with the same codec, so that the gain is the strategy's alone."""
    codec = strategy.WireCodec(prompt=prompt_codec, decode=kinds.Codec.FLOAT16)
    ushape = strategy.UShapeOptions(split_layer=2, codec=codec)
    hat = strategy.HatOptions(split_layer=2, codec=codec)
    return (
        Variant("ushape", "UShape", strategy.StrategySpec(type=kinds.StrategyType.U_SHAPE, u_shape=ushape)),
        Variant("hat", "Hat", strategy.StrategySpec(type=kinds.StrategyType.HAT, hat=hat)),
    )


def plan(chosen: tuple[Variant, ...], *, time_scale: float = 1.0) -> launches.TopologyLaunch:
    """One launch with the cloud of the first variant and a device for each."""
    base = launches.demo_topologies()[0]
    taken: set[int] = set()
    wishes = launches.PortWishes(as_declared=False)
    planned = [
        launches.plan_topology(
            _with_strategy(base, variant), folder=pathlib.Path.cwd(), wishes=wishes, time_scale=time_scale, taken=taken
        )
        for variant in chosen
    ]
    first = planned[0]
    devices = tuple(
        launches.connected(dataclasses.replace(one.devices[0], name=variant.name), clouds=first.clouds)
        for one, variant in zip(planned, chosen, strict=True)
    )
    return dataclasses.replace(first, name="demo", strategy="", devices=devices)


def _with_strategy(base: topology.InferenceTopology, variant: Variant) -> topology.InferenceTopology:
    spec = base.spec.model_copy(update={"strategy": variant.strategy})
    return base.model_copy(update={"spec": spec})


@dataclasses.dataclass(frozen=True, slots=True)
class Prompt:
    """A held-out prompt: its token ids, and its text for people."""

    file: str
    token_ids: tuple[int, ...]
    text: str


def prompt(num_tokens: int) -> Prompt:
    """The beginning of a held-out file (never trained on), `_FILE` if it is long enough.

    Raises `ConfigError` when none is.
    """
    import tokenizers

    encoder = tokenizers.Tokenizer.from_file(str(assets.model_dir() / "tokenizer.json"))
    for path in sorted(assets.heldout_texts(), key=lambda path: path.name != _FILE):
        text = path.read_text(encoding="utf-8")
        ids = encoder.encode(text).ids[:num_tokens]
        if len(ids) == num_tokens:
            return Prompt(file=path.name, token_ids=tuple(ids), text=encoder.decode(ids))
    raise errors.ConfigError(f"no held-out file has {num_tokens} tokens: ask for fewer", field="--prompt-tokens")
