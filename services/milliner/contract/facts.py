"""What an inspect Job finds out about a topology's sources, and what it is asked: the operator itself sees no files.

The Job runs `python -m milliner.roles inspect --config FILE` with an `InspectConfig` and writes one line of JSON, an
`InspectedFacts`, to its termination message; the operator keeps it and makes `plan.ModelFacts` of it. Torch-free.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
from typing import Literal

import pydantic

from milliner.contract import base, errors, fields, kinds, role_config, sources, strategy, topology
from milliner.contract import model as model_spec

SCHEMA = 1
MAX_LINE_BYTES = 4096  # Kubernetes keeps that much of a container's termination message
_KEY_CHARACTERS = 16
_COMMIT = "^([0-9a-f]{40})?$"


class FactsError(base.Model):
    """Why a source could not be used; an expected answer, not a crash."""

    reason: str = pydantic.Field(min_length=1, max_length=64, description="CamelCase reason, such as ModelNotFound.")
    field: str = pydantic.Field(max_length=253, description="Field of the topology that is to be corrected.")
    message: str = pydantic.Field(min_length=1, max_length=1024, description="What is wrong and what to do.")


class InspectedFacts(base.Model):
    """The answer of an inspect Job; `key` is that of the question."""

    schema_version: Literal[1] = pydantic.Field(default=1, alias="schema", description="Version of this form.")
    key: str = pydantic.Field(min_length=1, max_length=64, description="Key of the sources that were inspected.")
    layers: int = pydantic.Field(default=0, ge=0, description="Decoder layers of the model.")
    hidden_size: int = pydantic.Field(default=0, ge=0, description="Width of its hidden states.")
    dtype: kinds.Dtype = pydantic.Field(default=kinds.Dtype.FLOAT32, description="The checkpoint's own numeric type.")
    digest: fields.Digest | None = pydantic.Field(default=None, description="Digest of the whole model.")
    fingerprint: str = pydantic.Field(default="", max_length=128, description="Identity of the files at the source.")
    model_commit: str = pydantic.Field(
        default="", pattern=_COMMIT, description="Commit of the hub that the model's revision stood for; empty: none."
    )
    drafter_commit: str = pydantic.Field(default="", pattern=_COMMIT, description="The same of the drafter.")
    tokenizer_digest: fields.Digest | None = pydantic.Field(
        default=None, description="Digest of the tokenizer's files, where tiers exchange token ids."
    )
    drafter_kind: Literal["adapter", "heads"] | None = pydantic.Field(default=None, description="Drafter, if any.")
    drafter_split: int | None = pydantic.Field(default=None, ge=1, description="Split that an adapter was made for.")
    drafter_acceptance_percent: int | None = pydantic.Field(
        default=None, ge=0, le=100, description="Acceptance measured when it was trained, in percent."
    )
    drafter_model_digest: fields.Digest | None = pydantic.Field(
        default=None, description="Digest of the model that the drafter was trained for."
    )
    max_positions: int | None = pydantic.Field(default=None, ge=1, description="Longest context, in positions.")
    error: FactsError | None = pydantic.Field(default=None, description="Why there are no facts.")

    def to_line(self) -> str:
        """One line of JSON for the termination message."""
        return json.dumps(self.document(), separators=(",", ":"), sort_keys=True)


class InspectConfig(base.Model):
    """What an inspect Job is asked: the `inspect` role's configuration file."""

    role: Literal["inspect"] = pydantic.Field(default="inspect", description="Always inspect.")
    topology: fields.Label = pydantic.Field(description="Name of the topology.")
    key: str = pydantic.Field(min_length=1, max_length=64, description="Key that the answer must carry.")
    strategy: kinds.StrategyType = pydantic.Field(description="Serving strategy, which decides the kind of drafter.")
    model: role_config.ModelFiles = pydantic.Field(description="The model's source and where it is or goes.")
    drafter_source: str | None = pydantic.Field(default=None, description="Source of the adapter or heads.")
    drafter_path: str | None = pydantic.Field(default=None, description="Where the drafter is or goes.")


def load(path: pathlib.Path) -> InspectConfig:
    """Reads an inspect Job's configuration; raises `DocumentError` or `SpecInvalid` naming file and field."""
    return base.parse(InspectConfig, role_config.read_document(path), origin=str(path))


def parse_line(line: str) -> InspectedFacts:
    """The facts in a termination message; raises `SpecInvalid` or `DocumentError` (*expected*: the Job is ours, its
    image may be another version's)."""
    if len(line.encode()) > MAX_LINE_BYTES:
        raise errors.DocumentError(f"inspect message: {len(line)} characters, at most {MAX_LINE_BYTES} bytes are taken")
    try:
        document = json.loads(line)
    except ValueError:
        raise errors.DocumentError(f"inspect message: not JSON: {line[:80]!r}") from None
    return base.parse(InspectedFacts, document, origin="inspect message")


def drafter_source(wanted: topology.InferenceTopology) -> str | None:
    """The source of a topology's drafter; the demo model brings its adapter with it. None: it has none."""
    chosen = wanted.spec.strategy
    if chosen.type is kinds.StrategyType.U_SHAPE:
        return chosen.u_shape.heads.source if chosen.u_shape and chosen.u_shape.heads else None
    if chosen.type is not kinds.StrategyType.HAT:
        return None
    options = chosen.hat or strategy.HatOptions()
    if options.adapter is not None:
        return options.adapter.source
    is_demo = sources.parse(wanted.spec.model.source) == sources.parse("builtin://demo")
    return "builtin://demo" if is_demo else None


def key_of(
    wanted: topology.InferenceTopology,
    *,
    own: model_spec.ModelSpec | None = None,
    runtime_image: str = "",
    hub_endpoint: str = "",
) -> str:
    """Identity of all that the facts depend on: model source with revision, drafter source, dtype, strategy; the image
    where it brings a source with it, the hub's mirror where a source lies there. `own`: a pool's model, which has no
    drafter, instead of the topology's."""
    model, drafter = own or wanted.spec.model, drafter_source(wanted)
    parts = [SCHEMA, model.source, drafter, model.dtype.value, wanted.spec.strategy.type.value]
    schemes = {sources.parse(each).scheme for each in (model.source, drafter) if each is not None}
    parts += [f"image={runtime_image}"] if runtime_image and sources.Scheme.BUILTIN in schemes else []
    parts += [f"hub={hub_endpoint}"] if hub_endpoint and sources.Scheme.HUGGING_FACE in schemes else []
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:_KEY_CHARACTERS]
