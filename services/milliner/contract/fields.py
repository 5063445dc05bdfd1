"""Field types that several parts of the topology share: bounded integers, names, sources, references to Secrets."""

from __future__ import annotations

import re
from typing import Annotated, Any

import pydantic

from milliner.contract import base, checks, sources

COUNT_OR_PERCENT = r"[1-9][0-9]{0,4}|[1-9][0-9]?%|100%"
DNS_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
LABEL_VALUE = r"([A-Za-z0-9]([-_.A-Za-z0-9]*[A-Za-z0-9])?)?"
DIGEST = r"sha256:[0-9a-f]{64}"
# apimachinery's resource.Quantity, without a sign: there is no negative amount of a resource. Exponents have two
# digits: with more, comparing two amounts would take an API server longer than a request may.
QUANTITY = r"([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][-+]?[0-9]{1,2})?"

_is_label = checks.matching(
    DNS_LABEL,
    "'{self}' is no DNS label: use lower-case letters, digits and hyphens, a letter or digit at both ends",
)
# An API server without relaxed names takes no Service whose name begins with a digit; names of ours begin with it.
_begins_with_letter = checks.Rule(
    holds=lambda text: not text[:1].isdecimal(),
    cel="!self.matches('^[0-9]')",
    message="'{self}' begins with a digit, which names of Services must not: put a letter before it",
)
_is_label_value = checks.matching(
    LABEL_VALUE,
    "'{self}' is no label value: use letters, digits, hyphens, underscores and dots, a letter or digit at both ends",
)
_is_digest = checks.matching(
    DIGEST, "'{self}' is no SHA-256 digest: write sha256: and 64 hexadecimal digits, lower case"
)
_is_url = checks.matching(r"https?://[^\s]+", "'{self}' is no URL: write http://host:port or https://host/path")

_is_count_or_percent = checks.Rules(
    (
        checks.Rule(
            holds=lambda text: re.fullmatch(COUNT_OR_PERCENT, text, re.ASCII) is not None,
            cel="type(self) == int ? self >= 1 && self <= 99999 : "
            f"self.matches({checks.cel_literal(f'^({COUNT_OR_PERCENT})$')})",
            message="'{self}' is neither a number of devices nor a share of them: write 1 or more, or 1% to 100%",
        ),
    )
)
_is_quantity = checks.matching(QUANTITY, "'{self}' is no quantity: write 2, 500m or 4Gi", unless="type(self) == int")


def _as_text(value: Any) -> Any:
    """An amount without unit may be a number in a document; inside it is text, as the API server gives it back."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


LONGEST_DIGEST_CHARACTERS = 128  # arbitrary, above the 71 of a digest: a slightly long one still gets our words

Label = Annotated[str, pydantic.Field(min_length=1, max_length=63), _is_label]
TopologyName = Annotated[
    str, pydantic.Field(min_length=1, max_length=63), checks.Rules((*_is_label.rules, _begins_with_letter))
]
LabelValue = Annotated[str, pydantic.Field(max_length=63), _is_label_value]
PoolName = Annotated[str, pydantic.Field(min_length=1, max_length=40), _is_label]
Digest = Annotated[str, pydantic.Field(max_length=LONGEST_DIGEST_CHARACTERS), _is_digest]
Source = Annotated[str, pydantic.Field(max_length=1024), checks.Rules(sources.RULES)]
Quantity = Annotated[
    str,
    pydantic.Field(max_length=64),
    pydantic.BeforeValidator(_as_text),
    pydantic.WithJsonSchema({"type": ["integer", "string"], "x-kubernetes-int-or-string": True, "maxLength": 64}),
    _is_quantity,
]
CountOrPercent = Annotated[
    str,
    pydantic.Field(max_length=16),
    pydantic.BeforeValidator(_as_text),
    pydantic.WithJsonSchema({"type": ["integer", "string"], "x-kubernetes-int-or-string": True, "maxLength": 16}),
    _is_count_or_percent,
]
NodeLabels = Annotated[dict[str, LabelValue], pydantic.Field(max_length=64)]
Quantities = Annotated[dict[str, Quantity], pydantic.Field(max_length=32)]
Port = Annotated[int, pydantic.Field(ge=1, le=65535)]
Percent = Annotated[int, pydantic.Field(ge=0, le=100)]
Replicas = Annotated[int, pydantic.Field(ge=0, le=10_000)]
Microseconds = Annotated[int, pydantic.Field(ge=0, le=60_000_000)]
Url = Annotated[str, pydantic.Field(max_length=2048), _is_url]


# Put on a field whose being set means something apart from its value: the API server must not fill it in.
UNSET_MATTERS = "x-unset-matters"


class SecretKeyRef(base.Model):
    """A key of a Secret in the topology's namespace."""

    name: str = pydantic.Field(min_length=1, max_length=253, description="Name of the Secret.")
    key: str = pydantic.Field(min_length=1, max_length=253, description="Key inside the Secret.")
