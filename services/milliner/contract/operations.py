"""`spec.objectives`, `fallback`, `tls` and `tracing`: how the topology is run, whatever the strategy."""

from __future__ import annotations

from typing import Annotated

import pydantic

from milliner.contract import base, checks, fields, kinds

CERT_MANAGER_GROUP = "cert-manager.io"
CERT_MANAGER_KINDS = ("Issuer", "ClusterIssuer")

_is_kind = checks.matching(
    r"[A-Z][A-Za-z0-9]*", "'{self}' is no kind: write a capital letter, then letters and digits, such as ClusterIssuer"
)
_is_group = checks.matching(
    rf"{fields.DNS_LABEL}(\.{fields.DNS_LABEL})*",
    "'{self}' is no API group: write a domain in lower case, such as cert-manager.io",
)


class Objectives(base.Model):
    """What the controllers aim at."""

    time_to_first_token_milliseconds: int = pydantic.Field(
        default=2000, ge=1, le=600_000, description="Time to first token that is aimed at, in milliseconds."
    )
    time_per_output_token_milliseconds: int = pydantic.Field(
        default=50, ge=1, le=600_000, description="Time per output token that is aimed at, in milliseconds."
    )


class Fallback(base.Model):
    """What a device does while no cloud replica answers."""

    on_cloud_loss: kinds.OnCloudLoss = pydantic.Field(
        default=kinds.OnCloudLoss.WAIT,
        description="Wait: try for waitSeconds, then fail; a device of PDDevice goes on alone at once. DraftOnly: go "
        "on with the on-device model alone. Fail: at once; with PDDevice where the cloud was asked.",
    )
    wait_seconds: int = pydantic.Field(
        default=30, ge=0, le=3600, description="How long an answer waits for a cloud replica, in seconds."
    )


class IssuerRef(base.Model):
    """The issuer that cert-manager asks for certificates. It must give its CA with them, as a CA issuer does."""

    name: str = pydantic.Field(
        min_length=1, max_length=253, description="Name of the issuer; an Issuer is in the topology's namespace."
    )
    kind: Annotated[str, pydantic.Field(max_length=63), _is_kind] = pydantic.Field(
        default="Issuer", description="Issuer or ClusterIssuer, or the kind of another group."
    )
    group: Annotated[str, pydantic.Field(max_length=253), _is_group] = pydantic.Field(
        default=CERT_MANAGER_GROUP, description="API group of the issuer, another for external ones."
    )


class Tls(base.Model):
    """Mutual TLS between the tiers."""

    mode: kinds.TlsMode = pydantic.Field(
        default=kinds.TlsMode.MANAGED,
        description="Managed: a CA per topology. CertManager: cert-manager issues, by issuerRef. Disabled: plain text. "
        "Processes of one machine (milliner up) talk over loopback, in plain text.",
    )
    issuer_ref: IssuerRef | None = pydantic.Field(default=None, description="Who issues with mode CertManager.")


class Tracing(base.Model):
    """Export of traces."""

    otlp_endpoint: fields.Url | None = pydantic.Field(
        default=None, description="OTLP endpoint, such as http://otel-collector:4317. Default: no export."
    )
    sampling_percent: fields.Percent = pydantic.Field(
        default=10, description="Share of requests whose trace is exported, in percent."
    )
