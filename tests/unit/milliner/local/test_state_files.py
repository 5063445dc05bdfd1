"""Which topologies run here: written, found, and dropped when their runner is gone."""

from __future__ import annotations

import errno
import os
import pathlib
import subprocess
import sys

import pytest

from milliner.core import errors
from milliner.local import state_files


def running(name: str, *, pid: int | None = None, started_s: float | None = None) -> state_files.RunningTopology:
    pid = os.getpid() if pid is None else pid
    started = state_files.process_started_s(pid) if started_s is None else started_s
    return state_files.RunningTopology(
        name=name,
        strategy="Hat",
        model="demo",
        runner_pid=pid,
        runner_started_s=started or 0.0,
        devices=(state_files.Endpoint(name="d", url="http://127.0.0.1:1", pid=1),),
        clouds=(),
    )


def test_what_is_written_is_found_and_readable_by_its_owner_alone(tmp_path: pathlib.Path) -> None:
    files = state_files.StateFiles(tmp_path / "run")
    assert files.running() == []
    assert files.find(None) is None
    one = running("one")
    path = files.write(one)
    assert path.stat().st_mode & 0o077 == 0
    assert files.find(None) == files.find("one") == one
    files.remove("one")
    files.remove("one")
    assert files.running() == []


def test_several_must_be_named(tmp_path: pathlib.Path) -> None:
    files = state_files.StateFiles(tmp_path)
    files.write(running("one"))
    files.write(running("two"))
    with pytest.raises(errors.ConfigError, match=r"several topologies run here \(one, two\)"):
        files.find(None)
    with pytest.raises(errors.ConfigError, match=r"three does not run here \(running: one, two\)"):
        files.find("three")


def test_files_of_dead_runners_and_of_reused_pids_are_passed_over_and_replaced(tmp_path: pathlib.Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    files = state_files.StateFiles(tmp_path)
    files.write(running("dead", pid=process.pid, started_s=1.0))
    files.write(running("reused", started_s=1.0))  # this process' pid, but not its start
    (tmp_path / "broken.json").write_text("{")
    assert files.running() == []
    for name in ("dead", "reused", "broken"):
        claim = files.claim(name)
        assert not (tmp_path / f"{name}.json").exists()
        claim.release()
    assert list(tmp_path.iterdir()) == []


def test_a_reader_never_removes_a_file_that_is_written_meanwhile(tmp_path: pathlib.Path) -> None:
    """It saw the file of a killed runner; a new runner's may stand there by the time that it would remove it."""
    files = state_files.StateFiles(tmp_path)
    path = files.write(running("one", started_s=1.0))
    files.running()
    assert path.exists()


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_without_rights_is_named(tmp_path: pathlib.Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(errors.ConfigError, match=f"{tmp_path}.*: set XDG_RUNTIME_DIR"):
        state_files.StateFiles(tmp_path / "milliner").claim("one")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.ConfigError, match=r"cannot be made .*: set XDG_RUNTIME_DIR"):
        state_files.StateFiles(tmp_path / "file" / "milliner").claim("one")


def test_work_folders_of_dead_processes_are_removed(tmp_path: pathlib.Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    old = tmp_path / f"old.{process.pid}.work"
    old.mkdir()
    (old / "role.json").write_text("{}")
    files = state_files.StateFiles(tmp_path)
    own = files.work_folder("new.name")
    assert own.is_dir()
    assert not old.exists()
    assert files.work_folder("new.name") == own


def test_the_folder_follows_the_environment(tmp_path: pathlib.Path) -> None:
    assert state_files.directory({"XDG_RUNTIME_DIR": str(tmp_path)}) == tmp_path / "milliner"
    home = {"XDG_RUNTIME_DIR": str(tmp_path / "absent"), "HOME": "/home/someone"}
    assert state_files.directory(home) == pathlib.Path("/home/someone/.cache/milliner/run")
    assert state_files.directory(home | {"XDG_CACHE_HOME": "/c"}) == pathlib.Path("/c/milliner/run")
    for nowhere in ({}, {"HOME": "", "XDG_CACHE_HOME": ""}):
        with pytest.raises(errors.ConfigError, match="XDG_RUNTIME_DIR: is not set, nor is HOME: set XDG_RUNTIME_DIR"):
            state_files.directory(nowhere)


def test_a_full_disk_is_told_with_the_file_and_the_remedy(tmp_path: pathlib.Path) -> None:
    """`milliner up` said no more than "No space left on device"."""
    draft = tmp_path / f"chat.{os.getpid()}.tmp"
    draft.symlink_to("/dev/full")
    with pytest.raises(errors.MillinerError, match=r"No space left on device.*make room on that disk") as told:
        state_files.StateFiles(tmp_path).write(running("chat"))
    assert told.value.field == str(draft)
    assert list(tmp_path.iterdir()) == []


def test_a_claim_on_a_full_disk_is_given_back(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    state = state_files.StateFiles(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(errors.MillinerError, match="make room") as told:
            state.claim("chat")
        assert told.value.field == str(tmp_path / "chat.lock")
    state.claim("chat").release()
