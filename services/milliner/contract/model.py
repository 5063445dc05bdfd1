"""`spec.model`: which model, where its files are, and under which name it is served."""

from __future__ import annotations

import pydantic

from milliner.contract import base, fields, kinds


class ModelSpec(base.Model):
    """Which model, where its files are, and which name clients ask for: servedName, or else the topology's."""

    source: fields.Source = pydantic.Field(
        description="Where the checkpoint folder is: hf://org/name@revision, pvc://claim/path, https://host/path, "
        "builtin://demo; without a cluster also file:///folder or a folder's path, relative to the topology's file."
    )
    served_name: str | None = pydantic.Field(
        default=None,
        min_length=1,
        max_length=253,
        description="Name that clients ask for. Default: metadata.name.",
    )
    dtype: kinds.Dtype = pydantic.Field(
        default=kinds.Dtype.AUTO, description="Numeric type of the weights; Auto is what the checkpoint says."
    )
    digest: fields.Digest | None = pydantic.Field(
        default=None,
        description="Pin: sha256 digest of what decides the model's output. Default: agreed by both tiers, not pinned.",
    )
    credentials_secret_ref: fields.SecretKeyRef | None = pydantic.Field(
        default=None, description="Secret with the token that the source asks for. Default: none."
    )
