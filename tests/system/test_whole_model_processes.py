"""DeviceOnly, CloudOnly and P/D-Device as real processes: the model's answer, whatever dies on the way."""

from __future__ import annotations

import contextlib
import json
import pathlib
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent import futures

import httpx
import pytest
from tests.system import role_processes
from tests.unit.milliner.telemetry import otlp_receiver

from milliner.contract import emulation, kinds, operations, role_config

Type = kinds.StrategyType
CLOUD_STEP_US, DEVICE_STEP_US, DEVICE_PROMPT_US = 20_000, 30_000, 100_000  # "hello" takes half a second on the device
NEW_TOKENS = 40


@pytest.fixture(scope="module")
def model(tiny_model: pathlib.Path) -> pathlib.Path:
    return tiny_model


def files(model: pathlib.Path) -> role_config.ModelFiles:
    return role_config.ModelFiles(path=str(model), served_name="tiny", dtype=kinds.Dtype.FLOAT32)


def prefill_config(model: pathlib.Path, *, name: str = "prefill", port: int = 0) -> role_config.PrefillRoleConfig:
    return role_config.PrefillRoleConfig(
        topology="t",
        name=name,
        model=files(model),
        layers=4,
        listen=role_config.Listen(port=port),
        torch_threads=1,
        engine=role_config.EngineLimits(kv_cache_bytes=16 << 20),
        emulation=emulation.CloudEmulation(
            compute=emulation.CloudCompute(layers=emulation.CallCost(fixed_microseconds=CLOUD_STEP_US))
        ),
    )


def device_config(
    model: pathlib.Path,
    kind: kinds.StrategyType,
    *ports: int,
    on_loss: kinds.OnCloudLoss = kinds.OnCloudLoss.WAIT,
    cloud_digest: str | None = None,
) -> role_config.WholeDeviceRoleConfig:
    whole = emulation.WholeModelCost(prompt_token_microseconds=DEVICE_PROMPT_US, step_microseconds=DEVICE_STEP_US)
    return role_config.WholeDeviceRoleConfig(
        topology="t",
        name=f"device-{kind.value.lower()}",
        pool="pool",
        model=files(model),
        layers=4,
        torch_threads=1,
        engine=role_config.EngineLimits(kv_cache_bytes=16 << 20),
        strategy=role_config.WholeStrategy(type=kind),
        cloud_model_digest=cloud_digest,
        cloud_endpoints=tuple(f"127.0.0.1:{port}" for port in ports),
        fallback=operations.Fallback(on_cloud_loss=on_loss, wait_seconds=5),
        emulation=emulation.DeviceEmulation(compute=emulation.DeviceCompute(whole_model=whole)),
    )


@pytest.fixture(scope="module")
def expected(model: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    """The device's own answer, which is the model's."""
    with role_processes.running(device_config(model, Type.DEVICE_ONLY), tmp_path_factory.mktemp("alone")) as role:
        return role_processes.Device(role).answer(NEW_TOKENS)


@contextlib.contextmanager
def asked(device: role_processes.Device, *, after_s: float) -> Iterator[futures.Future[list[int]]]:
    """An answer on its way for `after_s`."""
    with futures.ThreadPoolExecutor(1) as thread:
        answer = thread.submit(device.answer, NEW_TOKENS)
        time.sleep(after_s)
        yield answer


def test_the_cloud_alone_answers_through_the_loss_of_a_replica(
    model: pathlib.Path, expected: list[int], tmp_path: pathlib.Path
) -> None:
    with contextlib.ExitStack() as stack:
        clouds = [
            stack.enter_context(role_processes.running(prefill_config(model, name=f"prefill-{index}"), tmp_path))
            for index in range(2)
        ]
        config = device_config(model, Type.CLOUD_ONLY, *(cloud.port for cloud in clouds))
        device = role_processes.Device(stack.enter_context(role_processes.running(config, tmp_path)))
        assert device.answer(NEW_TOKENS) == expected
        with asked(device, after_s=0.4) as answer:
            clouds[0].kill()
            assert answer.result(30) == expected
        with asked(device, after_s=0.3) as answer:
            clouds[1].kill()
            with pytest.raises(AssertionError, match=r"replica|cloud"):
                answer.result(30)
        role_processes.wait_until(lambda: not device.ready, within_s=15.0)


def test_the_device_takes_over_and_goes_on_whenever_the_cloud_dies(
    model: pathlib.Path, expected: list[int], tmp_path: pathlib.Path
) -> None:
    with contextlib.ExitStack() as stack:
        cloud = stack.enter_context(role_processes.running(prefill_config(model), tmp_path))
        config = device_config(model, Type.PD_DEVICE, cloud.port)
        device = role_processes.Device(stack.enter_context(role_processes.running(config, tmp_path)))
        assert device.answer(NEW_TOKENS) == expected
        for after_s in (0.0, 0.15, 0.4, 1.0):
            if cloud.process.poll() is not None:
                cloud = stack.enter_context(role_processes.running(prefill_config(model, port=cloud.port), tmp_path))
                assert device.answer(NEW_TOKENS) == expected
            with asked(device, after_s=after_s) as answer:
                cloud.kill()
                assert answer.result(30) == expected
        assert device.ready, "it answers alone"
        assert device.answer(NEW_TOKENS) == expected


def test_a_device_that_dies_is_told_to_its_client_and_leaves_the_cloud_free(
    model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    health = otlp_receiver.free_port()
    with contextlib.ExitStack() as stack:
        config = prefill_config(model).model_copy(update={"health_port": health})
        cloud = stack.enter_context(role_processes.running(config, tmp_path))
        device = stack.enter_context(role_processes.running(device_config(model, Type.PD_DEVICE, cloud.port), tmp_path))

        def sessions() -> float:
            told = httpx.get(f"http://127.0.0.1:{health}/metrics", timeout=10, trust_env=False).text
            (found,) = (line for line in told.splitlines() if line.startswith("milliner_cloud_sessions "))
            return float(found.split()[1])

        body = {"model": "tiny", "prompt": "a long one " * 8, "max_tokens": 150, "temperature": 0, "ignore_eos": True}
        with futures.ThreadPoolExecutor(1) as thread:
            url = f"http://127.0.0.1:{device.port}/v1/completions"
            answer = thread.submit(lambda: httpx.post(url, json=body, timeout=90, trust_env=False))
            role_processes.wait_until(lambda: sessions() == 1.0, within_s=30.0)
            device.kill()
            with pytest.raises(httpx.TransportError):
                answer.result(30)
        role_processes.wait_until(lambda: sessions() == 0.0, within_s=30.0)


def test_a_cloud_that_falls_silent_is_not_waited_for(
    model: pathlib.Path, expected: list[int], tmp_path: pathlib.Path
) -> None:
    with contextlib.ExitStack() as stack:
        cloud = stack.enter_context(role_processes.running(prefill_config(model), tmp_path))
        config = device_config(model, Type.PD_DEVICE, cloud.port)
        device = role_processes.Device(stack.enter_context(role_processes.running(config, tmp_path)))
        with asked(device, after_s=0.2) as answer:
            cloud.process.send_signal(signal.SIGSTOP)
            assert answer.result(30) == expected
        cloud.process.send_signal(signal.SIGCONT)


def test_a_topology_that_wants_the_cloud_says_so_when_it_is_lost(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with contextlib.ExitStack() as stack:
        cloud = stack.enter_context(role_processes.running(prefill_config(model), tmp_path))
        config = device_config(model, Type.PD_DEVICE, cloud.port, on_loss=kinds.OnCloudLoss.FAIL)
        device = role_processes.Device(stack.enter_context(role_processes.running(config, tmp_path)))
        cloud.kill()
        refused = device.ask(NEW_TOKENS)
        assert refused.status_code in (502, 503)
        assert refused.json()["error"]["message"]


def test_another_model_in_the_cloud_is_refused_by_name(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with contextlib.ExitStack() as stack:
        cloud = stack.enter_context(role_processes.running(prefill_config(model), tmp_path))
        config = device_config(model, Type.CLOUD_ONLY, cloud.port, cloud_digest="sha256:" + "0" * 64)
        role = role_processes.Role(config, tmp_path)
        try:
            role_processes.wait_until(lambda: role.process.poll() is not None, within_s=60.0)
            assert "model_digest" in role.log.read_text()
        finally:
            role.close()


def test_another_tokenizer_in_the_cloud_is_refused_by_name(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(model, own)
    tokenizer = json.loads((own / "tokenizer.json").read_text())
    pieces = tokenizer["model"]["vocab"]
    pieces["a"], pieces["b"] = pieces["b"], pieces["a"]
    (own / "tokenizer.json").write_text(json.dumps(tokenizer))
    with contextlib.ExitStack() as stack:
        cloud = stack.enter_context(role_processes.running(prefill_config(model), tmp_path))
        role = stack.enter_context(role_processes.running(device_config(own, Type.PD_DEVICE, cloud.port), tmp_path))

        def reason() -> str:
            told: str = httpx.get(f"http://127.0.0.1:{role.port}/probe", timeout=10, trust_env=False).json()["reason"]
            return told

        role_processes.wait_until(lambda: "tokenizer_digest" in reason(), within_s=30.0)
        assert len(role_processes.Device(role).answer(3)) == 3, "it answers alone, and not in another tokenizer's ids"
