"""Settings of the operator: environment variables, read once by `__main__`, as one frozen value."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from milliner_operator import errors

DEFAULT_RUNTIME_IMAGE = "milliner/runtime:latest"
DEFAULT_RESYNC_S = 30  # half of the age at which a probe's answer is stale
_PULL_POLICIES = ("Always", "IfNotPresent", "Never")
_LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_URL = re.compile(r"https?://[^\s/]+(/\S*)?")


@dataclasses.dataclass(frozen=True, slots=True)
class Outside:
    """How pods reach model sources outside the cluster; empty: straight, at the sources' own hosts."""

    hub_endpoint: str = ""  # a mirror in place of the hub that hf:// sources name
    https_proxy: str = ""
    http_proxy: str = ""
    no_proxy: str = ""

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(each for each in (self.hub_endpoint, self.https_proxy, self.http_proxy) if each)

    @property
    def variables(self) -> dict[str, str]:
        """The environment of a pod that fetches. Upper-case alone: gRPC reads the lower-case names, and the stream
        between tiers is not to go through a proxy."""
        found = {
            "HF_ENDPOINT": self.hub_endpoint,
            "HTTPS_PROXY": self.https_proxy,
            "HTTP_PROXY": self.http_proxy,
            "NO_PROXY": self.no_proxy,
        }
        return {name: value for name, value in found.items() if value}


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """What the platform engineer decides once for all topologies."""

    runtime_image: str = DEFAULT_RUNTIME_IMAGE
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    watch_namespaces: tuple[str, ...] = ()  # empty: all
    installation: str = ""  # namespace/name of its Deployment, as its claims have it; empty: it has none
    resync_s: int = DEFAULT_RESYNC_S  # an unchanged topology is looked at this often
    metrics_port: int = 9090
    liveness_port: int = 8081
    log_level: str = "INFO"
    runtime_log_level: str = "INFO"  # of the roles' pods: a change replaces them
    otlp_endpoint: str = ""  # for topologies that name none; empty: no export
    tracing_sampling_percent: int = 10
    remote_servers: tuple[str, ...] = ()  # hosts that kubeconfigs of pools may name, * for any part; empty: all
    queue_metric: str = ""  # name of a custom metric of queue milliseconds per pod; empty: scale on CPU
    outside: Outside = dataclasses.field(default_factory=Outside)

    @property
    def version(self) -> str:
        """The runtime image's tag, for the label app.kubernetes.io/version."""
        reference = self.runtime_image.partition("@")[0]
        tag = reference.rpartition(":")[2] if ":" in reference.rpartition("/")[2] else "latest"
        return tag[:63]


def read(environment: Mapping[str, str]) -> Settings:
    """The settings in the environment; raises `SettingsInvalid` naming the variable (*expected*)."""
    return Settings(
        runtime_image=environment.get("MILLINER_RUNTIME_IMAGE", "") or DEFAULT_RUNTIME_IMAGE,
        image_pull_policy=_one_of(environment, "MILLINER_IMAGE_PULL_POLICY", _PULL_POLICIES, default="IfNotPresent"),
        image_pull_secrets=_list(environment, "MILLINER_IMAGE_PULL_SECRETS"),
        watch_namespaces=_list(environment, "MILLINER_WATCH_NAMESPACES"),
        installation=environment.get("MILLINER_INSTALLATION", ""),
        resync_s=_integer(environment, "MILLINER_RESYNC_SECONDS", default=DEFAULT_RESYNC_S, least=5, most=3600),
        metrics_port=_integer(environment, "MILLINER_METRICS_PORT", default=9090, least=0, most=65535),
        liveness_port=_integer(environment, "MILLINER_LIVENESS_PORT", default=8081, least=1, most=65535),
        log_level=_one_of(environment, "MILLINER_LOG_LEVEL", _LOG_LEVELS, default="INFO"),
        runtime_log_level=_one_of(environment, "MILLINER_RUNTIME_LOG_LEVEL", _LOG_LEVELS, default="INFO"),
        otlp_endpoint=environment.get("MILLINER_OTLP_ENDPOINT", ""),
        tracing_sampling_percent=_integer(
            environment, "MILLINER_TRACING_SAMPLING_PERCENT", default=10, least=0, most=100
        ),
        remote_servers=_list(environment, "MILLINER_REMOTE_SERVERS"),
        queue_metric=environment.get("MILLINER_QUEUE_METRIC", ""),
        outside=Outside(
            hub_endpoint=_url(environment, "MILLINER_HUB_ENDPOINT").rstrip("/"),
            https_proxy=_url(environment, "MILLINER_SOURCE_HTTPS_PROXY"),
            http_proxy=_url(environment, "MILLINER_SOURCE_HTTP_PROXY"),
            no_proxy=environment.get("MILLINER_SOURCE_NO_PROXY", ""),
        ),
    )


def _list(environment: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in environment.get(name, "").split(",") if part.strip())


def _url(environment: Mapping[str, str], name: str) -> str:
    text = environment.get(name, "")
    if text and _URL.fullmatch(text) is None:
        raise errors.SettingsInvalid(name, "is no URL: write http://host:port or https://host/path")
    return text


def _one_of(environment: Mapping[str, str], name: str, allowed: tuple[str, ...], *, default: str) -> str:
    value = environment.get(name, "") or default
    if value not in allowed:
        raise errors.SettingsInvalid(name, f"is {value!r}: use {', '.join(allowed)}")
    return value


def _integer(environment: Mapping[str, str], name: str, *, default: int, least: int, most: int) -> int:
    text = environment.get(name, "") or str(default)
    if not text.isdigit() or not least <= int(text) <= most:
        raise errors.SettingsInvalid(name, f"is {text!r}: use a whole number from {least} to {most}")
    return int(text)
