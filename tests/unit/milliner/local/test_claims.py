"""One runner per name: the second is refused with the first one's process, a killed one's name is taken over."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from milliner.core import errors
from milliner.local import claims


def test_the_second_is_refused_until_the_first_gives_the_name_back(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "chat.lock"
    first = claims.take(path, name="chat")
    words = f"metadata.name: chat runs here already as process {os.getpid()}: .* kill {os.getpid()}"
    with pytest.raises(errors.ConfigError, match=words):
        claims.take(path, name="chat")
    claims.take(tmp_path / "other.lock", name="other").release()
    first.release()
    first.release()
    assert list(tmp_path.iterdir()) == []
    claims.take(path, name="chat").release()


def test_the_name_of_a_killed_process_is_free(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "chat.lock"
    code = (
        "import pathlib\n"
        "from milliner.local import claims\n"
        f"held = claims.take(pathlib.Path({str(path)!r}), name='chat')\n"
        "print('held', flush=True)\n"
        "input()\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(errors.ConfigError, match=f"process {holder.pid}:"):
            claims.take(path, name="chat")
        holder.send_signal(signal.SIGKILL)
        holder.wait(10)
    assert path.exists()
    claims.take(path, name="chat").release()


def test_of_many_at_once_exactly_one_has_the_name(tmp_path: pathlib.Path) -> None:
    """Each gives it back at once or is refused; a removed lock file must let nobody in beside its holder."""
    code = (
        "import pathlib, sys, time\n"
        "from milliner.core import errors\n"
        "from milliner.local import claims\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "for _ in range(200):\n"
        "    try:\n"
        "        held = claims.take(folder / 'chat.lock', name='chat')\n"
        "    except errors.ConfigError:\n"
        "        continue\n"
        "    (folder / 'inside').mkdir()\n"  # fails where somebody else is inside
        "    (folder / 'inside').rmdir()\n"
        "    held.release()\n"
    )
    many = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for one in many:
        _, stderr = one.communicate(timeout=60)
        assert one.returncode == 0, stderr
