"""Roles as pods run them: mutual TLS, keys, health apart, names from the environment, traces sent, slow drains."""

from __future__ import annotations

import contextlib
import datetime
import pathlib
import signal
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import httpx
import pytest
from tests.system import role_processes, test_loss
from tests.unit.milliner.telemetry import otlp_receiver
from tests.wire import certificates

from milliner.contract import operations, role_config

KEY = {"Authorization": "Bearer secret-of-ann"}


class Pods:
    """Two cloud replicas and a device."""

    def __init__(self, folder: pathlib.Path, model: pathlib.Path, receiver: otlp_receiver.Receiver) -> None:
        self.folder = folder
        self.model = model
        self.receiver = receiver
        self.signer = certificates.authority("topology t")
        self.cloud_tier, self.device_tier = certificates.tiers(folder, self.signer)
        self.keys = folder / "keys"
        self.keys.mkdir()
        (self.keys / "ann").write_text("secret-of-ann\n")
        self.clouds: list[tuple[role_processes.Role, int]] = []
        self.device: role_processes.Role
        self.device_health = otlp_receiver.free_port()

    def start(self, stack: contextlib.ExitStack) -> None:
        for index in range(2):
            health = otlp_receiver.free_port()
            config = test_loss.cloud_config(self.model, name=f"cloud-{index}")
            update = self._common(self.cloud_tier, health) | {"drain_seconds": 30}
            role = role_processes.running(config.model_copy(update=update), self.folder)
            self.clouds.append((stack.enter_context(role), health))
        ports = [role.port for role, _ in self.clouds]
        fallback = operations.Fallback(wait_seconds=5)
        device = test_loss.device_config(self.model, *ports, fallback=fallback)
        update = self._common(self.device_tier, self.device_health) | {
            "api_keys_dir": str(self.keys),
            "cloud_endpoints": tuple(f"dns:localhost:{port}" for port in ports),
        }
        own = {"MILLINER_NAME": "device-x2x4z", "MILLINER_REVISION": "5f6d"}
        self.device = stack.enter_context(
            role_processes.running(device.model_copy(update=update), self.folder, environment=own)
        )

    def _common(self, tier: certificates.Tier, health: int) -> dict[str, Any]:
        return {
            "listen": role_config.Listen(host="0.0.0.0"),
            "tls": tier.files,
            "health_port": health,
            "tracing": role_config.TraceExport(otlp_endpoint=self.receiver.url, sampling_percent=100),
        }

    def ask(self, max_tokens: int, headers: dict[str, str] = KEY, *, trace_id: str = "") -> httpx.Response:
        """A request, as part of the caller's trace where one is given."""
        body = {"model": "tiny", "prompt": "hello", "max_tokens": max_tokens, "temperature": 0}
        body |= {"ignore_eos": True, "return_token_ids": True}
        url = f"http://127.0.0.1:{self.device.port}/v1/completions"
        headers = headers | ({"traceparent": f"00-{trace_id}-{'b' * 16}-01"} if trace_id else {})
        return httpx.post(url, json=body, headers=headers, timeout=90, trust_env=False)

    def answer(self, max_tokens: int, *, trace_id: str = "") -> list[int]:
        response = self.ask(max_tokens, trace_id=trace_id)
        assert response.status_code == 200, response.text
        tokens: list[int] = response.json()["choices"][0]["token_ids"]
        return tokens

    def root(self, trace_id: str) -> otlp_receiver.Span:
        """The span of a whole request, once it has arrived."""

        def roots(spans: list[otlp_receiver.Span]) -> list[otlp_receiver.Span]:
            return [each for each in spans if each.trace_id == trace_id and each.name == "text_completion tiny"]

        self.receiver.wait_for(lambda spans: bool(roots(spans)))
        return roots(self.receiver.spans)[0]

    def busy_cloud(self) -> int:
        """The replica that has a session."""
        role_processes.wait_until(lambda: any(sessions(health) for _, health in self.clouds), within_s=20)
        return next(index for index, (_, health) in enumerate(self.clouds) if sessions(health))


def of(spans: list[otlp_receiver.Span], trace_id: str) -> list[otlp_receiver.Span]:
    return [span for span in spans if span.trace_id == trace_id]


def sessions(port: int) -> float:
    lines = get(port, "/metrics").text.splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("milliner_cloud_sessions ")))


def get(port: int, path: str) -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=10, trust_env=False)


@pytest.fixture(scope="module")
def pods(tiny_model: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pods]:
    with otlp_receiver.receiving() as receiver, contextlib.ExitStack() as stack:
        found = Pods(tmp_path_factory.mktemp("pods"), tiny_model, receiver)
        found.start(stack)
        yield found


def test_health_is_apart_and_in_plain_text(pods: Pods) -> None:
    for port in (pods.device_health, *(health for _, health in pods.clouds)):
        assert get(port, "/healthz").json() == get(port, "/readyz").json() == {"status": "ok"}
    assert "milliner_e2e_request_latency_seconds" in get(pods.device_health, "/metrics").text
    probe = get(pods.device_health, "/probe").json()
    assert (probe["ok"], probe["reason"], probe["revision"]) == (True, "", "5f6d")
    assert probe["modelDigest"].startswith("sha256:")
    assert probe["roundTripMicroseconds"] >= 30_000  # the cloud's modelled duration
    assert probe["timeToFirstTokenMilliseconds"] >= 30
    assert 0 < probe["tokensPerSecond"] < 35
    assert 0 <= probe["ageSeconds"] < 60
    assert {event.name for event in pods.device.events} == {"device-x2x4z"}


def test_requests_need_a_key_and_health_does_not(pods: Pods) -> None:
    assert pods.ask(2, headers={}).status_code == 401
    assert pods.ask(2, headers={"Authorization": "Bearer secret-of-bob"}).status_code == 401
    for path in ("/healthz", "/readyz", "/probe"):
        assert get(pods.device.port, path).status_code == 200
    (pods.keys / "bob").write_text("secret-of-bob")
    time.sleep(1.1)  # keys are looked at once a second
    assert pods.ask(2, headers={"Authorization": "Bearer secret-of-bob"}).status_code == 200


def test_an_answer_of_both_tiers_is_one_trace_at_the_receiver(pods: Pods) -> None:
    trace_id = "1" * 32
    pods.answer(3, trace_id=trace_id)
    assert not pods.root(trace_id).failed
    pods.receiver.wait_for(lambda spans: any(span.service == "milliner-cloud" for span in of(spans, trace_id)))
    spans = of(pods.receiver.spans, trace_id)
    ids = {span.span_id: span for span in spans}
    frames = [span for span in spans if span.service == "milliner-cloud" and span.name.startswith("cloud ")]
    assert {ids[span.parent_id].service for span in frames if span.parent_id in ids} == {"milliner-device"}
    assert {"network", "cloud_forward", "queue"} <= {span.name for span in spans}


def test_certificates_and_their_ca_change_under_an_answer(pods: Pods) -> None:
    expected = pods.answer(60)
    following = certificates.authority("topology t, next")
    with futures.ThreadPoolExecutor(1) as thread:
        running = thread.submit(pods.answer, 60)
        pods.busy_cloud()
        for tier in (pods.cloud_tier, pods.device_tier):
            tier.trust(pods.signer, following)
        pods.cloud_tier.take(following, server=True)
        pods.device_tier.take(following, server=False)
        assert pods.answer(60) == expected
        for tier in (pods.cloud_tier, pods.device_tier):
            tier.trust(following)
        assert pods.answer(60) == expected
        assert running.result(90) == expected
    pods.signer = following
    assert get(pods.device_health, "/readyz").status_code == 200


def test_an_expired_certificate_is_named_by_readiness_and_forgotten_when_it_is_renewed(pods: Pods) -> None:
    ended = datetime.datetime.now(datetime.UTC) - certificates.DAY
    pods.device_tier.take(pods.signer, server=False, not_after=ended)
    port = pods.device_health
    role_processes.wait_until(lambda: get(port, "/readyz").status_code == 503, within_s=test_loss.LOSS_FOUND_S)
    assert "tls.crt expired at" in get(port, "/readyz").json()["reason"]
    probe = get(port, "/probe").json()
    assert probe["ok"] is False
    assert "tls.crt expired at" in probe["reason"]
    pods.device_tier.take(pods.signer, server=False)
    role_processes.wait_until(lambda: get(port, "/readyz").status_code == 200, within_s=test_loss.BACK_S)

    pods.cloud_tier.take(pods.signer, server=True, not_after=ended)
    for _, health in pods.clouds:
        assert "tls.crt expired at" in get(health, "/readyz").json()["reason"]
    role_processes.wait_until(lambda: get(port, "/readyz").status_code == 503, within_s=test_loss.LOSS_FOUND_S)
    pods.cloud_tier.take(pods.signer, server=True)
    role_processes.wait_until(lambda: get(port, "/readyz").status_code == 200, within_s=test_loss.BACK_S)


def test_a_replica_that_is_asked_to_end_lets_its_answers_end_and_takes_no_more(pods: Pods) -> None:
    expected, trace_id = pods.answer(60), "2" * 32
    with futures.ThreadPoolExecutor(1) as thread:
        running = thread.submit(pods.answer, 60, trace_id=trace_id)
        index = pods.busy_cloud()
        role, health = pods.clouds[index]
        role.process.send_signal(signal.SIGTERM)
        role_processes.wait_until(lambda: get(health, "/readyz").status_code == 503, within_s=5)
        assert get(health, "/readyz").json()["reason"] == "the replica is stopping"
        assert get(health, "/healthz").status_code == 200
        assert pods.answer(5) == expected[:5]  # by the other one
        assert role.process.poll() is None
        assert running.result(90) == expected
    assert role.process.wait(20) == 0
    assert pods.root(trace_id).attributes.get("milliner.count.recoveries", 0) == 0
    pods.clouds.pop(index)


def test_an_answer_that_fails_is_traced_too(pods: Pods) -> None:
    trace_id = "3" * 32
    with futures.ThreadPoolExecutor(1) as thread:
        running = thread.submit(pods.ask, 200, trace_id=trace_id)
        pods.busy_cloud()
        pods.clouds[0][0].kill()  # the last one
        assert running.result(90).status_code == 503
    root = pods.root(trace_id)
    assert root.failed
    assert root.attributes["error.type"] == "UnavailableError"
