"""`spec.objectives`, `fallback`, `tls` and `tracing`: how the topology is run, whatever the strategy."""

from __future__ import annotations

import pydantic

from milliner.contract import base, fields, kinds


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
        description="Wait: try for waitSeconds, then fail. DraftOnly: go on with the on-device model alone. "
        "Fail: at once.",
    )
    wait_seconds: int = pydantic.Field(
        default=30, ge=0, le=3600, description="How long an answer waits for a cloud replica, in seconds."
    )


class Tls(base.Model):
    """Mutual TLS between the tiers."""

    mode: kinds.TlsMode = pydantic.Field(
        default=kinds.TlsMode.MANAGED,
        description="Managed: a CA per topology. CertManager: cert-manager issues. Disabled: plain text. "
        "Processes of one machine (milliner up) talk over loopback, in plain text.",
    )


class Tracing(base.Model):
    """Export of traces."""

    otlp_endpoint: fields.Url | None = pydantic.Field(
        default=None, description="OTLP endpoint, such as http://otel-collector:4317. Default: no export."
    )
    sampling_percent: fields.Percent = pydantic.Field(
        default=10, description="Share of requests whose trace is exported, in percent."
    )
