"""Supervision of child processes: events, restart with back-off, giving up, ending, and no orphan."""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import psutil
import pytest

from milliner.core import errors
from milliner.local import children, supervisor


class QuickClock:
    """Real time, except that back-off waits a hundredth of what it was told."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def now(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(seconds / 100)


class Recorder:
    def __init__(self) -> None:
        self.logs: list[str] = []
        self.states: list[supervisor.State] = []

    def on_log(self, name: str, line: str) -> None:
        self.logs.append(line)

    def on_state(self, name: str, state: supervisor.State, detail: str) -> None:
        self.states.append(state)


def script(body: str) -> tuple[str, ...]:
    prelude = """
    import json, signal, sys, time
    def say(event, **rest):
        print(json.dumps({"event": event, "role": "cloud", "name": "c", **rest}), flush=True)
    """
    return (sys.executable, "-c", textwrap.dedent(prelude) + textwrap.dedent(body))


def supervise(body: str) -> tuple[supervisor.Supervisor, Recorder, QuickClock, children.Lifeline]:
    lifeline, recorder, clock = children.Lifeline(), Recorder(), QuickClock()
    spec = children.ChildSpec(name="c", argv=script(body), environment=os.environ)
    return supervisor.Supervisor(spec, lifeline=lifeline, listener=recorder, clock=clock), recorder, clock, lifeline


async def test_a_child_becomes_ready_and_ends_on_request() -> None:
    one, recorder, _, lifeline = supervise(
        """
        say("serving", host="127.0.0.1", port=7)
        print("hello", file=sys.stderr, flush=True)
        say("ready")
        time.sleep(60)
        """
    )
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(one.run())
        await one.settled.wait()
        assert one.serving_event is not None
        assert one.serving_event.port == 7
        pid = one.pid
        await one.stop(grace_s=2.0)
    assert recorder.states == [supervisor.State.STARTING, supervisor.State.READY, supervisor.State.STOPPED]
    assert recorder.logs == ["hello"]
    assert pid is not None
    assert not psutil.pid_exists(pid)
    lifeline.close()


async def test_a_child_that_ignores_sigterm_is_killed() -> None:
    one, _, _, lifeline = supervise('signal.signal(signal.SIGTERM, signal.SIG_IGN); say("ready"); time.sleep(60)')
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(one.run())
        await one.settled.wait()
        started = time.monotonic()
        await one.stop(grace_s=0.3)
    assert 0.3 <= time.monotonic() - started < 3.0
    lifeline.close()


async def test_a_child_that_crashes_after_ready_is_restarted_with_doubling_delays() -> None:
    one, recorder, clock, lifeline = supervise('say("ready"); sys.exit(1)')
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(one.run())
        while one.restarts < 6:
            await asyncio.sleep(0.02)
        await one.stop(grace_s=1.0)
    assert clock.slept[:6] == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0]
    assert one.failure is None
    assert recorder.states.count(supervisor.State.RESTARTING) == one.restarts
    lifeline.close()


async def test_wrong_configuration_is_not_retried_and_keeps_its_field() -> None:
    one, recorder, _, lifeline = supervise('say("failed", field="model.source", message="no such folder"); sys.exit(2)')
    async with asyncio.timeout(10):
        await one.run()
    assert isinstance(one.failure, errors.ConfigError)
    assert (one.failure.field, one.failure.message) == ("model.source", "no such folder")
    assert one.settled.is_set()
    assert one.restarts == 0
    assert recorder.states[-1] is supervisor.State.FAILED
    lifeline.close()


async def test_a_child_whose_port_is_taken_while_it_is_away_tries_again(tmp_path: pathlib.Path) -> None:
    """Clients know the port. Before the child was ever ready, the runner takes another one instead."""
    file = tmp_path / "lives"
    one, _, _, lifeline = supervise(
        f"""
        open({str(file)!r}, "a").write("x")
        lives = len(open({str(file)!r}).read())
        if lives in (2, 3):
            say("failed", field="listen.port", message="in use")
            sys.exit(2)
        say("ready")
        time.sleep(60 if lives == 4 else 0)
        """
    )
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(one.run())
        while one.restarts < 3 or one.state is not supervisor.State.READY:
            assert one.failure is None
            await asyncio.sleep(0.02)
        await one.stop(grace_s=1.0)
    assert not one.lacks_port
    lifeline.close()


async def test_a_child_whose_port_is_taken_at_first_is_left_to_the_runner() -> None:
    one, _, _, lifeline = supervise('say("failed", field="listen.port", message="in use"); sys.exit(2)')
    async with asyncio.timeout(10):
        await one.run()
    assert one.lacks_port
    assert one.restarts == 0
    lifeline.close()


async def test_a_child_that_never_gets_ready_is_given_up_with_its_last_words() -> None:
    one, _, _, lifeline = supervise('print("boom", file=sys.stderr); sys.exit(1)')
    async with asyncio.timeout(10):
        await one.run()
    assert isinstance(one.failure, errors.UnavailableError)
    assert "exited with status 1" in str(one.failure)
    assert "boom" in str(one.failure)
    assert one.restarts == 2
    lifeline.close()


async def test_cancelling_the_supervisor_kills_the_child() -> None:
    one, _, _, lifeline = supervise('say("ready"); time.sleep(60)')
    task = asyncio.create_task(one.run())
    async with asyncio.timeout(10):
        await one.settled.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert one.pid is not None
    assert not psutil.pid_exists(one.pid)
    lifeline.close()


async def test_stopping_while_the_process_is_being_made_ends_it() -> None:
    one, recorder, _, lifeline = supervise('say("ready"); time.sleep(60)')
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        running = group.create_task(one.run())
        await asyncio.sleep(0)
        assert one.pid is None
        await one.stop(grace_s=5.0)
        await running
    assert one.pid is not None
    assert not psutil.pid_exists(one.pid)
    assert recorder.states[-1] is supervisor.State.STOPPED
    lifeline.close()


async def test_a_program_that_is_not_there_is_a_failure() -> None:
    lifeline, recorder = children.Lifeline(), Recorder()
    spec = children.ChildSpec(name="c", argv=("/nowhere/program",), environment={})
    one = supervisor.Supervisor(spec, lifeline=lifeline, listener=recorder, clock=QuickClock())
    await one.run()
    assert one.settled.is_set()
    assert "c cannot be started" in str(one.failure)
    lifeline.close()


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_children_end_when_their_runner_dies(tmp_path: pathlib.Path, signum: signal.Signals) -> None:
    """Runner and child are separate processes here; the child holds the lifeline as a role does, and hangs."""
    child = """
    import os, signal, time
    from milliner.roles import lifeline
    assert lifeline.hold(os.environ)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print('{"event": "ready", "role": "cloud", "name": "c"}', flush=True)
    time.sleep(60)
    """
    runner = f"""
    import asyncio, os, sys, time
    from milliner.local import children
    async def main():
        argv = (sys.executable, "-c", {textwrap.dedent(child)!r})
        spec = children.ChildSpec(name="c", argv=argv, environment=os.environ)
        child = await children.Child.start(spec, children.Lifeline())
        await child.run(on_output=lambda line: print(child.pid, flush=True), on_log=print)
    asyncio.run(main())
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(runner)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        child_pid = int(process.stdout.readline())
        assert psutil.pid_exists(child_pid)
        process.send_signal(signum)
        process.wait(5)
        process.stdout.close()
        deadline = time.monotonic() + 5.0
        while psutil.pid_exists(child_pid) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not psutil.pid_exists(child_pid)
    finally:
        process.kill()


def test_a_process_without_a_runner_holds_no_lifeline() -> None:
    from milliner.roles import lifeline

    assert not lifeline.hold({})
    with pytest.raises(OSError):
        lifeline.hold({"MILLINER_LIFELINE_FD": str(os.sysconf("SC_OPEN_MAX") - 1)})


def test_events_survive_the_line() -> None:
    from milliner.contract import role_events

    event = role_events.RoleEvent(event=role_events.RoleEventKind.SERVING, role="cloud", name="cloud-0", port=5)
    assert role_events.parse_line(event.to_line()) == event
    assert role_events.parse_line("loading 1/2") is None
    assert role_events.parse_line(json.dumps({"event": "ready"})) is None
