"""`python -m milliner.roles cloud|device|inspect --config FILE`: one role of a topology, until SIGTERM (inspect: once).

Exit status 0: ended as asked; 1: the work failed; 2: configuration or files are wrong (a `failed` event says what).
The only reader of the environment: `MILLINER_LIFELINE_FD` (set by a runner), `MILLINER_LOG_LEVEL`, `HF_ENDPOINT`,
`MILLINER_NAME` and `MILLINER_REVISION` (`environment`).
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import pathlib
import signal
import sys

from milliner.roles import lifeline

EXIT_FAILED = 1
EXIT_WRONG_CONFIGURATION = 2


def main() -> int:
    """Runs the role and returns its exit status."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # C-core would log every connection that ends
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # asks for counters; there are none until the role serves
    if os.getpid() == 1:  # the kernel spares a container's first process signals that it has no handler for
        signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    lifeline.hold(os.environ)  # first: what follows imports torch, and the runner may die meanwhile
    parser = argparse.ArgumentParser(prog="python -m milliner.roles", description="One role of a topology.")
    parser.add_argument("role", choices=("cloud", "device", "prefill", "whole-device", "inspect"))
    parser.add_argument("--config", type=pathlib.Path, required=True, metavar="FILE", help="role configuration, JSON")
    arguments = parser.parse_args()
    if arguments.role == "inspect":
        return _inspect(arguments.config)
    return _run(arguments.role, arguments.config)


def _inspect(path: pathlib.Path) -> int:
    from milliner.roles import inspecting, reporter

    reporter.set_up_logging(os.environ.get("MILLINER_LOG_LEVEL", "INFO"))
    return inspecting.run(path, environment=os.environ)


def _run(role: str, path: pathlib.Path) -> int:
    from milliner.contract import errors as contract_errors
    from milliner.contract import role_config, role_events
    from milliner.core import errors
    from milliner.roles import environment, fetching, last_words, places, reporter

    reporter.set_up_logging(os.environ.get("MILLINER_LOG_LEVEL", "INFO"))
    report = reporter.Reporter(role=role, name=path.stem)
    try:
        config = role_config.load(path)
        if config.role != role:
            raise errors.ConfigError(f"is {config.role}, but this process was started as {role}", field="role")
        config = environment.lay_over(config, os.environ)
        report = reporter.Reporter(role=role, name=config.name)
        config = fetching.with_local_files(config, places.from_environment(os.environ))
        asyncio.run(_serve(config, report))
    except (errors.MillinerError, contract_errors.ContractError, BaseExceptionGroup) as raised:
        error = _expected(raised, (errors.MillinerError, contract_errors.ContractError))
        if error is None:
            raise
        message, field = getattr(error, "message", str(error)), getattr(error, "field", "")
        report.say(role_events.RoleEventKind.FAILED, message=message, field=field)
        logging.getLogger("milliner.roles").error("%s", error)
        last_words.leave(str(error))
        wrong = isinstance(error, errors.ConfigError | contract_errors.ContractError)
        return EXIT_WRONG_CONFIGURATION if wrong else EXIT_FAILED
    return 0


def _expected(raised: BaseException, kinds: tuple[type[Exception], ...]) -> BaseException | None:
    """The first error of `kinds` in `raised`, which may be a group of a TaskGroup; None if there is none."""
    if isinstance(raised, BaseExceptionGroup):
        inner = (_expected(one, kinds) for one in raised.exceptions)
        return next((error for error in inner if error is not None), None)
    return raised if isinstance(raised, kinds) else None


async def _serve(config: object, report: object) -> None:
    from milliner.contract import role_config
    from milliner.core import time_slices
    from milliner.roles import reporter

    assert isinstance(report, reporter.Reporter)
    time_slices.for_event_loop()
    if isinstance(config, role_config.CloudRoleConfig):
        from milliner.roles import cloud

        await cloud.run(config, report=report)
    elif isinstance(config, role_config.PrefillRoleConfig):
        from milliner.roles import prefill

        await prefill.run(config, report=report)
    elif isinstance(config, role_config.WholeDeviceRoleConfig):
        from milliner.roles import whole_device

        await whole_device.run(config, report=report)
    else:
        assert isinstance(config, role_config.DeviceRoleConfig)
        from milliner.roles import device

        await device.run(config, report=report)


def _end(status: int) -> None:
    """Ends the process at once: everything is closed, and tearing down torch's modules takes half a second of CPU."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _end(main())
