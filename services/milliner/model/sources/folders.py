"""A folder of files, near or far: the seam between what reads checkpoints and where they are. Here: a local one.

Names are plain file names; ranges are half-open, in bytes. Called before a role serves, on the main thread and, for
`stream`, on fetching threads.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Protocol

from milliner.core import errors

_READ_BYTES = 1 << 20  # arbitrary: large enough that hashing, not system calls, takes the time


@dataclasses.dataclass(frozen=True, slots=True)
class FileStat:
    """A file's size, and what its place calls this very content (an entity tag); empty where it says nothing."""

    size_bytes: int
    tag: str = ""


class Folder(Protocol):
    """`where` names it to people, `field` is the topology's field that leads to it. `commit` is what the place says
    that the revision read so far stands for; empty where it says nothing, or nothing was read.

    Methods raise `SourceError` for what the place does not have or refuses, `UnavailableError` where it cannot be
    reached after several attempts (both *expected*).
    """

    @property
    def where(self) -> str: ...

    @property
    def field(self) -> str: ...

    @property
    def commit(self) -> str: ...

    def read(self, name: str) -> bytes | None:
        """A small file as a whole; None if there is none."""
        ...

    def stat(self, name: str) -> FileStat:
        """Size and tag of a file that must be there."""
        ...

    def stream(self, name: str, begin: int, end: int) -> Iterator[bytes]:
        """Exactly the bytes [begin, end) of a file, in pieces."""
        ...

    def close(self) -> None:
        """Lets connections go."""
        ...


class LocalFolder:
    """A folder of this machine: a mounted volume, a path, or what ships with the package."""

    commit = ""

    def __init__(self, path: pathlib.Path, *, field: str) -> None:
        self.path = path
        self.field = field

    @property
    def where(self) -> str:
        return str(self.path)

    def read(self, name: str) -> bytes | None:
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unreadable(name, error) from None

    def stat(self, name: str) -> FileStat:
        try:
            return FileStat(size_bytes=(self.path / name).stat().st_size)
        except OSError as error:
            raise self._unreadable(name, error) from None

    def stream(self, name: str, begin: int, end: int) -> Iterator[bytes]:
        try:
            with (self.path / name).open("rb") as file:
                file.seek(begin)
                while begin < end:
                    part = file.read(min(_READ_BYTES, end - begin))
                    if not part:
                        raise errors.SourceError(
                            f"{self.path / name} ends before byte {end}: it is cut short, copy it again",
                            field=self.field,
                        )
                    begin += len(part)
                    yield part
        except OSError as error:
            raise self._unreadable(name, error) from None

    def close(self) -> None:
        """Nothing to let go."""

    def _unreadable(self, name: str, error: OSError) -> errors.SourceError:
        return errors.SourceError(
            f"{self.path / name} cannot be read ({error.strerror or error}): correct the path, or the rights of the "
            "files",
            field=self.field,
        )
