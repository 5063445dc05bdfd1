"""Field types that several parts of the topology share: bounded integers, names, sources, references to Secrets."""

from __future__ import annotations

import re
from typing import Annotated

import pydantic

from milliner.contract import base, sources

DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DIGEST = r"^sha256:[0-9a-f]{64}$"


def _matches_label(value: str) -> str:
    if re.fullmatch(DNS_LABEL, value) is None:
        raise ValueError(
            f"{value!r} is no DNS label: use lower-case letters, digits and hyphens, a letter or digit at both ends"
        )
    return value


def _matches_digest(value: str) -> str:
    if re.fullmatch(DIGEST, value) is None:
        raise ValueError(f"{value!r} is no SHA-256 digest: write sha256: and 64 hexadecimal digits, lower case")
    return value


def _is_source(value: str) -> str:
    sources.parse(value)
    return value


Label = Annotated[str, pydantic.Field(min_length=1, max_length=63), pydantic.AfterValidator(_matches_label)]
PoolName = Annotated[str, pydantic.Field(min_length=1, max_length=40), pydantic.AfterValidator(_matches_label)]
Digest = Annotated[str, pydantic.AfterValidator(_matches_digest)]
Source = Annotated[str, pydantic.Field(max_length=1024), pydantic.AfterValidator(_is_source)]
Port = Annotated[int, pydantic.Field(ge=1, le=65535)]
Percent = Annotated[int, pydantic.Field(ge=0, le=100)]
Replicas = Annotated[int, pydantic.Field(ge=0, le=10_000)]
Microseconds = Annotated[int, pydantic.Field(ge=0, le=60_000_000)]
Url = Annotated[str, pydantic.Field(pattern=r"^https?://.+", max_length=2048)]


class SecretKeyRef(base.Model):
    """A key of a Secret in the topology's namespace."""

    name: str = pydantic.Field(min_length=1, max_length=253, description="Name of the Secret.")
    key: str = pydantic.Field(min_length=1, max_length=253, description="Key inside the Secret.")
