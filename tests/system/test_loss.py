"""The cloud, the link or a replica is killed: `/readyz` tells the truth, answers go by the fallback, all comes back."""

from __future__ import annotations

import contextlib
import pathlib
import threading
import time
from collections.abc import Iterator
from concurrent import futures

import psutil
from tests.system import role_processes

from milliner.contract import emulation, kinds, operations, role_config, role_events, strategy

# An idle device asks its cloud every 5 s and is as patient as an opening (5 s); the rest is for a busy test machine.
LOSS_FOUND_S = 15.0
BACK_S = 30.0


def cloud_config(model: pathlib.Path, *, name: str = "cloud", port: int = 0) -> role_config.CloudRoleConfig:
    return role_config.CloudRoleConfig(
        topology="t",
        name=name,
        model=role_config.ModelFiles(path=str(model), served_name="tiny", dtype=kinds.Dtype.FLOAT32),
        listen=role_config.Listen(port=port),
        torch_threads=1,
        slice=role_config.SliceBounds(start=1, end=4),
        engine=role_config.EngineLimits(kv_cache_bytes=16 << 20),
        # 30 tokens take a second: time to kill something while an answer runs
        emulation=emulation.CloudEmulation(
            compute=emulation.CloudCompute(layers=emulation.CallCost(fixed_microseconds=30_000))
        ),
    )


def device_config(
    model: pathlib.Path, *ports: int, fallback: operations.Fallback, link: bool = False
) -> role_config.DeviceRoleConfig:
    return role_config.DeviceRoleConfig(
        topology="t",
        name="device",
        pool="pool",
        model=role_config.ModelFiles(path=str(model), served_name="tiny", dtype=kinds.Dtype.FLOAT32),
        torch_threads=1,
        split=role_config.Split(layers=4, split_layer=1),
        strategy=role_config.DeviceStrategy(
            type=kinds.StrategyType.U_SHAPE,
            drafting=strategy.Drafting(control=kinds.DraftControl.OFF),
            chunking=strategy.Chunking(),
            prompt_codec=kinds.Codec.FLOAT32,
            exact_tail_tokens=64,
            decode_codec=kinds.Codec.FLOAT32,
        ),
        cloud_endpoints=tuple(f"127.0.0.1:{port}" for port in ports),
        fallback=fallback,
        emulation=emulation.DeviceEmulation(link=emulation.LinkEmulation(round_trip_milliseconds=2)) if link else None,
    )


def link_processes(device: role_processes.Role) -> list[psutil.Process]:
    children = psutil.Process(device.process.pid).children()
    return [child for child in children if "milliner.wire.link_process" in child.cmdline()]


@contextlib.contextmanager
def asked(device: role_processes.Device, max_tokens: int) -> Iterator[futures.Future[list[int]]]:
    """An answer on its way for half a second."""
    with futures.ThreadPoolExecutor(1) as thread:
        answer = thread.submit(device.answer, max_tokens)
        time.sleep(0.5)
        assert not answer.done()
        yield answer


@contextlib.contextmanager
def always_ready(device: role_processes.Device) -> Iterator[None]:
    """Fails when the device was not ready at any time inside."""
    failures: list[str] = []
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.05):
            status, reason = device.readiness()
            if status != 200:
                failures.append(reason)

    with futures.ThreadPoolExecutor(1) as thread:
        looking = thread.submit(look)
        try:
            yield
        finally:
            ended.set()
        looking.result()
    assert failures == []


def test_a_lost_link_and_a_lost_cloud_are_told_and_waited_for_and_nothing_outlives_the_device(
    tiny_model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    waits = operations.Fallback(on_cloud_loss=kinds.OnCloudLoss.WAIT, wait_seconds=80)
    with contextlib.ExitStack() as stack:
        cloud = stack.enter_context(role_processes.running(cloud_config(tiny_model), tmp_path))
        config = device_config(tiny_model, cloud.port, fallback=waits, link=True)
        role = stack.enter_context(role_processes.running(config, tmp_path))
        device = role_processes.Device(role)
        expected = device.answer(60)

        (link,) = link_processes(role)
        with asked(device, 60) as answer:
            link.kill()
            role_processes.wait_until(lambda: not device.ready, within_s=LOSS_FOUND_S)
            role_processes.wait_until(lambda: device.ready, within_s=BACK_S)
            assert answer.result(60) == expected
        assert "the emulated link's process ended" in role.log.read_text()

        cloud.kill()
        role_processes.wait_until(lambda: not device.ready, within_s=LOSS_FOUND_S)
        time.sleep(1.0)
        status, reason = device.readiness()
        assert (status, "127.0.0.1:" in reason) == (503, True)
        with asked(device, 60) as answer:  # it is not refused: the fallback is to wait
            stack.enter_context(role_processes.running(cloud_config(tiny_model, port=cloud.port), tmp_path))
            role_processes.wait_until(lambda: device.ready, within_s=BACK_S)
            assert answer.result(60) == expected
        kinds_told = [event.event for event in role.events]
        assert kinds_told.count(role_events.RoleEventKind.READY) == 3

        links = link_processes(role)
        assert len(links) == 1
        role.kill()
        assert psutil.wait_procs(links, timeout=15)[1] == []


def test_one_of_two_replicas_may_die_and_without_the_other_answers_fail_at_once(
    tiny_model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    fails = operations.Fallback(on_cloud_loss=kinds.OnCloudLoss.FAIL)
    with contextlib.ExitStack() as stack:
        clouds = [
            stack.enter_context(role_processes.running(cloud_config(tiny_model, name=f"cloud-{index}"), tmp_path))
            for index in range(2)
        ]
        config = device_config(tiny_model, *(cloud.port for cloud in clouds), fallback=fails)
        device = role_processes.Device(stack.enter_context(role_processes.running(config, tmp_path)))
        expected = device.answer(60)

        with always_ready(device), asked(device, 60) as one, asked(device, 60) as other:  # one on each replica
            clouds[0].kill()
            assert one.result(60) == other.result(60) == expected
            for _ in range(3):
                assert device.answer(10) == expected[:10]

        with futures.ThreadPoolExecutor(1) as thread:
            response = thread.submit(device.ask, 60)
            time.sleep(0.5)
            clouds[1].kill()
            assert response.result(30).status_code == 503
        role_processes.wait_until(lambda: not device.ready, within_s=LOSS_FOUND_S)
        started_s = time.monotonic()
        assert device.ask(5).status_code == 503
        assert time.monotonic() - started_s < 10


def test_draft_only_is_refused_by_the_device_role(tiny_model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    draft_only = operations.Fallback(on_cloud_loss=kinds.OnCloudLoss.DRAFT_ONLY)
    role = role_processes.Role(device_config(tiny_model, 1, fallback=draft_only), tmp_path)
    with contextlib.closing(role):
        assert role.process.wait(role_processes.READY_S) == 2
    assert role.events[-1].event is role_events.RoleEventKind.FAILED
    assert "use Wait or Fail" in role.events[-1].message
