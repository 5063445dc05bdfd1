"""What only the model can tell: splits outside it, drafters of another split, digests. Pure; the caller reads files.

The words are those of the condition `SpecValid=False`; runner and operator both use them.
"""

from __future__ import annotations

from milliner.contract import errors


def default_split_layer(num_layers: int) -> int:
    """2, from 40 layers on 3: the splits of the HAT paper's 7B and 13B models; never the whole model."""
    return max(1, min(2 if num_layers < 40 else 3, num_layers - 1))


def check_split(*, group: str, split_layer: int, tail_layers: int, num_layers: int) -> list[errors.Problem]:
    """Problems of a split of a model with `num_layers`; at least one layer must remain for the cloud.

    `group` is the strategy's option group (`hat`, `uShape`).
    """
    if num_layers < 2:
        return [
            errors.Problem(
                "spec.model.source", f"the model has {num_layers} layer: a split needs at least 2, one for each tier"
            )
        ]
    if not 1 <= split_layer < num_layers:
        field = f"strategy.{group}.splitLayer"
        return [
            errors.Problem(
                f"spec.{field}",
                f"{field} is {split_layer}, the model has {num_layers} layers: use 1 to {num_layers - 1}",
            )
        ]
    most = num_layers - split_layer - 1
    if not 0 <= tail_layers <= most:
        field = f"strategy.{group}.tailLayers"
        remedy = f"use 0 to {most}" if most else "use 0"
        return [
            errors.Problem(
                f"spec.{field}",
                f"{field} is {tail_layers}, the model has {num_layers} layers and splitLayer is {split_layer}: "
                f"{remedy}, so that a layer remains for the cloud",
            )
        ]
    return []


def check_stages(*, stages: int, cloud_layers: int) -> list[errors.Problem]:
    """Problems of a pipeline; each stage needs a layer of the cloud's."""
    if stages <= cloud_layers:
        return []
    return [
        errors.Problem(
            "spec.cloud.pipelineStages",
            f"cloud.pipelineStages is {stages}, the cloud has {cloud_layers} of the model's layers: "
            f"use 1 to {cloud_layers}, so that each stage has a layer",
        )
    ]


def check_drafter_split(*, field: str, drafter_split: int, split_layer: int) -> list[errors.Problem]:
    """Problems of a drafter that was trained for another split; `field` is `strategy.hat.adapter` or the like."""
    if drafter_split == split_layer:
        return []
    group = field.rpartition(".")[0]
    return [
        errors.Problem(
            f"spec.{field}",
            f"{field} was trained for a split at {drafter_split}, {group}.splitLayer is {split_layer}: "
            f"set splitLayer: {drafter_split}, or train one with milliner train-adapter --split-layer {split_layer}",
        )
    ]


def check_digest(*, pinned: str | None, found: str) -> list[errors.Problem]:
    """Problems of a model whose digest is not the pinned one."""
    if pinned is None or pinned == found:
        return []
    return [
        errors.Problem(
            "spec.model.digest",
            f"model.digest is {pinned}, the files at model.source have {found}: correct the source, or drop the pin",
        )
    ]
