"""The key that an external engine asks for, in a file that may change: a mounted Secret, or one beside a topology."""

from __future__ import annotations

import pathlib

from milliner.core import errors
from milliner.wire.external import failures


class KeyFile:
    """Reads the key whenever it is asked for. Without a path there is none. Raises `ConfigError` at the start, for what
    later is an `UnavailableError`: a Secret may be away while it is replaced."""

    def __init__(self, path: str | None) -> None:
        self._path = pathlib.Path(path) if path is not None else None
        try:
            self.read()
        except errors.UnavailableError as error:
            raise errors.ConfigError(error.message, field=error.field) from None

    def read(self) -> str:
        """The key as the file has it now; "" where none is asked for."""
        if self._path is None:
            return ""
        try:
            key = self._path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise self._unusable(f"cannot be read: {error}") from None
        if not key or not key.isascii() or not key.isprintable():
            raise self._unusable("is empty or has characters that no header may have")
        return key

    def _unusable(self, why: str) -> errors.UnavailableError:
        return errors.UnavailableError(f"the key in {self._path} {why}", field=failures.KEY_FIELD)
