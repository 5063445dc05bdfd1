"""A folder of the cache: made under another name, taken again after a restart, replaced when something else is wanted.

`key` says what is wanted, in whatever words; a folder with the same key is complete and taken as it is, without asking
its source: a restart needs no network.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
import shutil
from collections.abc import Callable

KEY_FILE = "fetched.json"


def cached(out: pathlib.Path, key: dict[str, object], make: Callable[[pathlib.Path], None]) -> bool:
    """Makes sure that `out` is the folder that `key` describes; returns whether it had to be made.

    `make` fills an unfinished folder, in which it finds what an earlier attempt at the same key has left.
    """
    line = json.dumps({"key": _hash(key)})
    if _line(out) == line:
        return False
    partial = out.with_name(out.name + ".partial")
    if _line(partial) != line:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        (partial / KEY_FILE).write_text(line, encoding="utf-8")
    make(partial)
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    return True


def _line(folder: pathlib.Path) -> str | None:
    file = folder / KEY_FILE
    return file.read_text(encoding="utf-8") if file.is_file() else None


def _hash(key: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
