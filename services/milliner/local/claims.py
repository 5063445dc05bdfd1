"""One runner per topology name on this machine: whoever holds the lock of `NAME.lock` may run and note it.

The kernel frees the lock with the process, however it ends, so that a killed run blocks nobody. Used by `runner`
before the first process starts; blocking, instant.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib

from milliner.core import errors
from milliner.local import storing


class Claim:
    """The right to a name. Made by `take`, given back by `release` (or by the kernel)."""

    def __init__(self, path: pathlib.Path, fd: int) -> None:
        self._path = path
        self._fd = fd

    def release(self) -> None:
        """Gives the name back; safe to call twice."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        self._path.unlink(missing_ok=True)  # while the lock is held: nobody else's file can be there
        os.close(fd)


def take(path: pathlib.Path, *, name: str) -> Claim:
    """Claims `name` by the lock of the file `path`, whose folder exists.

    Raises `ConfigError` on `metadata.name` when another runner holds it, naming its process and how to end it.
    """
    while True:
        with storing.storing(path):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 20, 0).decode("ascii", "replace").strip()
            os.close(fd)
            raise errors.ConfigError(_words(name, holder), field="metadata.name") from None
        if _still_there(path, fd):
            claim = Claim(path, fd)
            try:
                with storing.storing(path):
                    os.ftruncate(fd, 0)
                    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
            except errors.MillinerError:
                claim.release()
                raise
            return claim
        os.close(fd)  # its holder removed it between our opening and our lock: again, with the file that is there now


def _still_there(path: pathlib.Path, fd: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(fd))
    return False


def _words(name: str, holder: str) -> str:
    # Empty for the instant between the holder's lock and its writing.
    process, remedy = (f" as process {holder}", f" or kill {holder}") if holder.isdigit() else ("", "")
    return (
        f"{name} runs here already{process}: end it with Ctrl-C in its terminal{remedy}, or give this one another name"
    )
