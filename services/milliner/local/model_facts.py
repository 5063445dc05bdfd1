"""What a topology's folders say of model and drafter, read from their small JSON files: `contract.plan.ModelFacts`.

The roles open the folders properly (tensors, digests); here is only what defaults and early checks need, without torch.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from milliner.contract import errors, kinds, plan, sources, topology
from milliner.demo import assets
from milliner.model import config_facts, tokenizer_digest


def read(wanted: topology.InferenceTopology, *, relative_to: Sequence[pathlib.Path]) -> plan.ModelFacts:
    """The facts of a topology's model and drafter; raises `SpecInvalid` naming the field (*expected*).

    Relative folders are looked for under each of `relative_to` in turn.
    """
    facts = read_whole(wanted, relative_to=relative_to)
    drafter = _drafter_folder(wanted, relative_to)
    return dataclasses.replace(
        facts,
        drafter_path=None if drafter is None else str(drafter[0]),
        drafter_split=None if drafter is None else _drafter_split(*drafter, kind=wanted.spec.strategy.type),
    )


def read_whole(wanted: topology.InferenceTopology, *, relative_to: Sequence[pathlib.Path]) -> plan.ModelFacts:
    """The facts of a topology's model alone; raises as `read` does."""
    return _facts(wanted.spec.model.source, "spec.model.source", relative_to)


def read_pools(
    wanted: topology.InferenceTopology, *, relative_to: Sequence[pathlib.Path]
) -> dict[str, plan.ModelFacts]:
    """The facts of the models that pools have of their own, by pool; raises as `read` does."""
    return {
        pool.name: _facts(pool.model.source, f"spec.devicePools[{index}].model.source", relative_to)
        for index, pool in enumerate(wanted.spec.device_pools)
        if pool.model is not None
    }


def _facts(text: str, field: str, relative_to: Sequence[pathlib.Path]) -> plan.ModelFacts:
    model = _folder(sources.parse(text), field, relative_to, assets.models())
    config = _json(model / "config.json", field, "name a Hugging Face checkpoint folder")
    text_config = config.get("text_config") or config  # multi-modal checkpoints keep the decoder's numbers apart
    return plan.ModelFacts(
        model_path=str(model),
        num_layers=_layers(text_config, model, field=field),
        dtype=config_facts.dtype(text_config, config),
        tokenizer_digest=tokenizer_digest.of_files(_reader(model)),
    )


def _reader(folder: pathlib.Path) -> Callable[[str], bytes | None]:
    return lambda name: (folder / name).read_bytes() if (folder / name).is_file() else None


def _layers(text_config: Mapping[str, Any], model: pathlib.Path, *, field: str) -> int:
    layers = text_config.get("num_hidden_layers")
    if not isinstance(layers, int):
        raise _invalid(field, f"{model / 'config.json'} has no num_hidden_layers: not a decoder model")
    return layers


def _drafter_folder(
    wanted: topology.InferenceTopology, relative_to: Sequence[pathlib.Path]
) -> tuple[pathlib.Path, str] | None:
    """The drafter's folder and the field that names it; the demo model brings its adapter with it."""
    strategy = wanted.spec.strategy
    if strategy.type is kinds.StrategyType.U_SHAPE:
        if strategy.u_shape is None or strategy.u_shape.heads is None:
            return None
        field, text, builtin = "spec.strategy.uShape.heads.source", strategy.u_shape.heads.source, assets.medusa_dir()
    else:
        field, builtin = "spec.strategy.hat.adapter.source", assets.adapter_dir()
        if strategy.hat is not None and strategy.hat.adapter is not None:
            text = strategy.hat.adapter.source
        elif sources.parse(wanted.spec.model.source) == sources.parse("builtin://demo"):
            text = "builtin://demo"
        else:
            return None
    return _folder(sources.parse(text), field, relative_to, {"demo": builtin}), field


def _drafter_split(folder: pathlib.Path, field: str, *, kind: kinds.StrategyType) -> int | None:
    """The split that an adapter was trained for; Medusa heads fit every split."""
    document = _json(folder / "adapter.json", field, "name a folder that milliner train-adapter wrote")
    if kind is kinds.StrategyType.U_SHAPE:
        return None
    split = document.get("split_layer")
    if not isinstance(split, int):
        raise _invalid(field, f"{folder / 'adapter.json'} has no split_layer: write the drafter anew")
    return split


def _folder(
    source: sources.Source, field: str, relative_to: Sequence[pathlib.Path], builtin: Mapping[str, pathlib.Path]
) -> pathlib.Path:
    try:
        return sources.local_folder(source, relative_to=relative_to, builtin=builtin)
    except ValueError as error:
        raise _invalid(field, str(error)) from None


def _json(path: pathlib.Path, field: str, remedy: str) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _invalid(field, f"{path} cannot be read ({error.strerror}): {remedy}") from None
    except ValueError as error:
        raise _invalid(field, f"{path} is not JSON ({error}): {remedy}") from None
    if not isinstance(document, dict):
        raise _invalid(field, f"{path} holds no object: {remedy}")
    return document


def _invalid(field: str, message: str) -> errors.SpecInvalid:
    return errors.SpecInvalid([errors.Problem(field, message)])
