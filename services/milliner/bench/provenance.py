"""Where a measurement was taken: the commit of the checkout and the machine. Used by `bench.report` only."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

_GIT_TIMEOUT_S = 5.0  # arbitrary: git answers in milliseconds, a hung file system must not hang the report


def commit() -> str:
    """The checkout's commit (`<hash>`, with `-dirty` when tracked files differ), else the package's version."""
    here = Path(__file__).resolve().parent
    described = _git(here, "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty")
    tracked = _git(here, "ls-files", "--error-unmatch", Path(__file__).name)
    if described and tracked:
        return described
    try:
        return f"version {importlib.metadata.version('milliner')}"
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def hardware() -> dict[str, str | int | float | bool | None]:
    """Processor, cores, memory, accelerators and versions; accelerators only where torch is loaded already."""
    torch = sys.modules.get("torch")
    accelerators = None
    if torch is not None and torch.cuda.is_available():
        accelerators = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": _memory_gib(),
        "accelerators": accelerators,
        "load_average": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": str(torch.__version__) if torch is not None else None,
    }


def _git(folder: Path, *arguments: str) -> str:
    """The output of git, empty where git, the repository or the answer is missing."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    names = getattr(os, "sysconf_names", {})
    if "SC_PAGE_SIZE" not in names or "SC_PHYS_PAGES" not in names:
        return None
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
