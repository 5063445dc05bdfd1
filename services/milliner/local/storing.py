"""Says which file could not be written, and what to do: Python names it where opening fails, not where writing does."""

from __future__ import annotations

import contextlib
import errno
import pathlib
from collections.abc import Iterator

from milliner.core import errors

REMEDY = "set XDG_RUNTIME_DIR to a folder that you may write to"
_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def storing(path: pathlib.Path) -> Iterator[None]:
    """Around the writing of `path`. Raises `MillinerError` naming it, with the remedy."""
    try:
        yield
    except OSError as error:
        full = "make room on that disk, or set XDG_RUNTIME_DIR to a folder on another one"
        raise errors.MillinerError(
            f"cannot be written ({error.strerror or error}): {full if error.errno in _FULL else REMEDY}",
            field=str(path),
        ) from error
