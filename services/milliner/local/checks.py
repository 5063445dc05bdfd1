"""What `milliner doctor` looks at: each check is one function that returns a `Finding`. Blocking; called off any loop.

A finding says what was found and, unless all is well, what to do. Checks never raise for what they look for.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib.metadata
import os
import pathlib
import platform
import shutil
import sys
from collections.abc import Callable, Mapping

from milliner.contract import errors as contract_errors
from milliner.core import errors
from milliner.demo import assets
from milliner.local import launches, packages, ports

_MIN_MEMORY_BYTES = 1 << 30  # the demo's two processes need about 0.7 GB, nearly all of it torch itself
_MIN_DISK_BYTES = 1 << 28  # arbitrary: logs, slices of small models
_API_PORT = 8080  # the topology's default (devicePools[].api.port)
_PYTHON = (3, 11)
_SHOWN_PACKAGES = ("torch", "transformers", "grpcio", "uvicorn")  # whose versions a bug report needs first


class Level(enum.StrEnum):
    """How bad a finding is: only `PROBLEM` keeps Milliner from working."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    subject: str
    level: Level
    found: str
    remedy: str = ""


def check_python() -> Finding:
    """Python's version."""
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info < _PYTHON:
        return Finding("python", Level.PROBLEM, found, "install Python 3.11 or later")
    return Finding("python", Level.OK, found)


def check_packages() -> Finding:
    """The runtime's packages (extra `runtime`)."""
    if absent := packages.absent():
        return Finding("packages", Level.PROBLEM, f"absent: {', '.join(absent)}", packages.INSTALL)
    versions = [f"{package} {importlib.metadata.version(package)}" for package in _SHOWN_PACKAGES]
    return Finding("packages", Level.OK, ", ".join(versions))


def check_torch() -> Finding:
    """Whether torch loads, and on what it would compute."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding(
            "torch", Level.PROBLEM, f"does not load: {error}", "reinstall it: pip install --force-reinstall torch"
        )
    if torch.cuda.is_available():
        names = {torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())}
        return Finding("torch", Level.OK, f"CUDA {torch.version.cuda}: {', '.join(sorted(names))}")
    if torch.version.cuda and pathlib.Path("/proc/driver/nvidia").exists():
        return Finding("torch", Level.WARNING, "a driver is there but CUDA is not usable", "update the NVIDIA driver")
    return Finding("torch", Level.OK, f"CPU, {torch.get_num_threads()} threads")


def check_memory() -> Finding:
    """Memory that is available now."""
    import psutil

    available = psutil.virtual_memory().available
    found = f"{available / 2**30:.1f} GiB available"
    if available < _MIN_MEMORY_BYTES:
        return Finding("memory", Level.WARNING, found, "close other programs: the demo wants about 1 GiB")
    return Finding("memory", Level.OK, found)


def check_cores() -> Finding:
    """Cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    if cores < 2:
        remedy = "emulated timing needs two cores: give milliner bench a --time-scale of 2 or more"
        return Finding("cores", Level.WARNING, str(cores), remedy)
    return Finding("cores", Level.OK, str(cores))


def check_port() -> Finding:
    """The port that the first device takes by default."""
    if ports.is_free("127.0.0.1", _API_PORT):
        return Finding("port", Level.OK, f"{_API_PORT} is free")
    remedy = "milliner up takes another one by itself; --device-port chooses it"
    return Finding("port", Level.WARNING, f"{_API_PORT} is in use", remedy)


def check_state_folder(folder: pathlib.Path) -> Finding:
    """The folder in which running topologies are noted."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        writable = os.access(folder, os.W_OK)
    except OSError as error:
        return Finding(
            "state folder", Level.PROBLEM, str(error), "set XDG_RUNTIME_DIR to a folder that you may write to"
        )
    if not writable:
        remedy = "set XDG_RUNTIME_DIR to a folder that you may write to"
        return Finding("state folder", Level.PROBLEM, f"{folder} is read-only", remedy)
    if shutil.disk_usage(folder).free < _MIN_DISK_BYTES:
        return Finding("state folder", Level.WARNING, f"{folder}: the disk is nearly full", "make room")
    return Finding("state folder", Level.OK, str(folder))


def check_demo_model() -> Finding:
    """The files of builtin://demo: model, tokenizer, adapter."""
    model, adapter = assets.model_dir(), assets.adapter_dir()
    wanted = (model / "config.json", model / "tokenizer.json", adapter / "adapter.json")
    absent = [str(file) for file in wanted if not file.is_file()]
    if absent:
        return Finding(
            "demo model",
            Level.PROBLEM,
            f"absent: {', '.join(absent)}",
            "install milliner again, or make it: python -m milliner.demo",
        )
    size_bytes = sum(file.stat().st_size for file in model.iterdir())
    return Finding("demo model", Level.OK, f"builtin://demo, {size_bytes / 1e6:.0f} MB")


def check_topology(file: pathlib.Path) -> Finding:
    """Everything that `milliner up` finds before it starts processes."""
    try:
        planned = launches.plan_file(file)
    except (errors.MillinerError, contract_errors.ContractError) as error:
        return Finding("topology", Level.PROBLEM, str(error))
    counts = [f"{one.name}: {len(one.clouds)} cloud, {len(one.devices)} device" for one in planned]
    notes = [note for one in planned for note in one.notes]
    return Finding("topology", Level.WARNING if notes else Level.OK, "; ".join(counts), "; ".join(notes))


def run_all(checks: Mapping[str, Callable[[], Finding]]) -> list[Finding]:
    """Runs the checks in order; one that fails in a way of its own becomes a finding, so that the others still run."""
    findings = []
    for subject, check in checks.items():
        try:
            findings.append(check())
        except ImportError as error:
            findings.append(Finding(subject, Level.PROBLEM, str(error), packages.INSTALL))
        except Exception as error:
            findings.append(Finding(subject, Level.PROBLEM, f"{type(error).__name__}: {error}", "report this as a bug"))
    return findings
