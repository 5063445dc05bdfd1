"""Files that say which topologies run on this machine, so that `milliner generate` finds them.

One JSON file per topology, `NAME.json`, written when it becomes ready and removed when it ends, by the one runner that
holds the claim on the name (`claims`). A file whose runner is gone (killed) is passed over by readers and replaced by
the next runner of that name. Only this module knows where they lie.
"""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Mapping

import pydantic

from milliner.core import errors
from milliner.local import claims, storing


class Endpoint(pydantic.BaseModel):
    """A device of a running topology, as clients reach it."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    name: str
    url: str
    pid: int


class RunningTopology(pydantic.BaseModel):
    """One running topology. `runner_started_s` tells the runner from a later process with the same pid."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    name: str
    strategy: str
    model: str
    runner_pid: int
    runner_started_s: float
    devices: tuple[Endpoint, ...]
    clouds: tuple[Endpoint, ...]
    logs: str = ""


def directory(environ: Mapping[str, str]) -> pathlib.Path:
    """`$XDG_RUNTIME_DIR/milliner`, or `~/.cache/milliner/run` where that is not set.

    Raises `ConfigError` where there is no home either, as in a container under an unknown user.
    """
    runtime = environ.get("XDG_RUNTIME_DIR")
    if runtime and os.access(runtime, os.W_OK):
        return pathlib.Path(runtime) / "milliner"
    if cache := environ.get("XDG_CACHE_HOME"):
        return pathlib.Path(cache) / "milliner" / "run"
    if home := environ.get("HOME"):
        return pathlib.Path(home) / ".cache" / "milliner" / "run"
    raise errors.ConfigError(f"is not set, nor is HOME: {storing.REMEDY}", field="XDG_RUNTIME_DIR")


def process_started_s(pid: int) -> float | None:
    """When the process `pid` started (seconds since the epoch), or None when there is none."""
    import psutil  # of the extra `runtime`, which a client of a remote device has not

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.Error:
        return None


class StateFiles:
    """The folder of state files."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder

    def claim(self, name: str) -> claims.Claim:
        """The right to run and note `name`; what a killed run left of it is removed.

        Raises `ConfigError` when another runner has it.
        """
        self._make_folder()
        claim = claims.take(self._folder / f"{name}.lock", name=name)
        self.remove(name)
        return claim

    def write(self, running: RunningTopology) -> pathlib.Path:
        """Writes the file of one topology, whole or not at all; readable by its owner alone. For the claim's holder."""
        self._make_folder()
        path = self._path(running.name)
        draft = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            with storing.storing(draft):
                draft.write_text(running.model_dump_json(indent=2) + "\n")
                draft.chmod(0o600)
                draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        return path

    def work_folder(self, name: str) -> pathlib.Path:
        """A new empty folder for this process' topology; those of dead processes are removed on the way."""
        self._make_folder()
        for old in self._folder.glob("*.work"):
            pid = old.suffixes[-2][1:] if len(old.suffixes) > 1 else ""
            if pid.isdigit() and process_started_s(int(pid)) is None:
                shutil.rmtree(old, ignore_errors=True)
        path = self._folder / f"{name}.{os.getpid()}.work"
        shutil.rmtree(path, ignore_errors=True)
        with storing.storing(path):
            path.mkdir(mode=0o700)
        return path

    def remove(self, name: str) -> None:
        """Removes the file of one topology, if it is there. For the claim's holder."""
        self._path(name).unlink(missing_ok=True)

    def running(self) -> list[RunningTopology]:
        """All topologies whose runner lives, newest first.

        Files of dead runners and unreadable ones (of another version) stay: only a claim's holder may remove a file,
        since another may be written in its place at any moment.
        """
        found = []
        for path in sorted(self._folder.glob("*.json")) if self._folder.is_dir() else []:
            try:
                running = RunningTopology.model_validate_json(path.read_text())
            except (pydantic.ValidationError, OSError):
                continue
            if _lives(running):
                found.append(running)
        return sorted(found, key=lambda running: running.runner_started_s, reverse=True)

    def find(self, name: str | None) -> RunningTopology | None:
        """The running topology called `name`; with None the only one, or None if none runs.

        Raises `ConfigError` when several run and `name` is None, or when `name` does not run.
        """
        running = self.running()
        if name is None:
            if len(running) > 1:
                names = ", ".join(sorted(one.name for one in running))
                raise errors.ConfigError(f"several topologies run here ({names}): give the name of one", field="--name")
            return running[0] if running else None
        for one in running:
            if one.name == name:
                return one
        names = ", ".join(sorted(one.name for one in running)) or "none"
        raise errors.ConfigError(
            f"{name} does not run here (running: {names}): start it with milliner up", field="--name"
        )

    def _make_folder(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            writable = os.access(self._folder, os.W_OK | os.X_OK)
        except OSError as error:
            raise errors.ConfigError(
                f"cannot be made ({error.strerror}): {storing.REMEDY}", field=str(self._folder)
            ) from None
        if not writable:
            raise errors.ConfigError(f"may not be written to: {storing.REMEDY}", field=str(self._folder))

    def _path(self, name: str) -> pathlib.Path:
        return self._folder / f"{name}.json"


def _lives(running: RunningTopology) -> bool:
    started_s = process_started_s(running.runner_pid)
    # 1 s: the kernel's tick and psutil's boot time make create_time wobble by some hundredths
    return started_s is not None and abs(started_s - running.runner_started_s) < 1.0
