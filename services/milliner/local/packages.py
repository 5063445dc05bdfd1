"""The packages that roles import (the extra `runtime`), looked for without importing them: fast, torch-free."""

from __future__ import annotations

import importlib.util

INSTALL = "pip install 'milliner[runtime]', or make setup"
# Module: package, of what a role cannot start without.
RUNTIME = {
    "torch": "torch",
    "transformers": "transformers",
    "tokenizers": "tokenizers",
    "safetensors": "safetensors",
    "numpy": "numpy",
    "grpc": "grpcio",
    "grpc_health": "grpcio-health-checking",
    "google.protobuf": "protobuf",
    "opentelemetry.sdk": "opentelemetry-sdk",
    "opentelemetry.exporter.otlp.proto.grpc": "opentelemetry-exporter-otlp-proto-grpc",
    "cryptography": "cryptography",
    "prometheus_client": "prometheus-client",
    "starlette": "starlette",
    "uvicorn": "uvicorn",
    "jinja2": "jinja2",
}


def absent() -> list[str]:
    """The runtime's packages that are not installed, by the names that pip knows."""
    return [package for module, package in RUNTIME.items() if not _found(module)]


def _found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package above it is absent
        return False
