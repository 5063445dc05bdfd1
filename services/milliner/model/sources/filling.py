"""Fills a file from a folder, piece by piece on several threads, and goes on where an earlier process stopped.

Beside the file lies a journal with the number of each piece that is in it; it is written after the piece's bytes are on
the disk. The caller makes sure that file and journal belong to the same plan.
"""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
import shutil
import threading
from collections.abc import Callable

from milliner.core import errors
from milliner.model.sources import folders, slice_plan

_THREADS = 4  # arbitrary: one connection seldom fills a link, and hubs limit requests
_JOURNAL = ".fetched"


def fill(
    path: pathlib.Path,
    plan: slice_plan.FilePlan,
    folder: folders.Folder,
    *,
    on_bytes: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Makes the file at `path`; `on_bytes(done, total)` is called as bytes come, by one thread at a time.

    Raises what the folder raises, and `SourceError` where the disk is full (*expected*).
    """
    journal = path.with_name(path.name + _JOURNAL)
    present = _present(path, journal, plan)
    missing = [number for number in range(len(plan.pieces)) if number not in present]
    _check_space(path, sum(plan.pieces[number].num_bytes for number in missing), field=folder.field)
    with path.open("r+b" if present else "wb") as file, journal.open("a" if present else "w") as done:
        os.pwrite(file.fileno(), plan.head, 0)
        os.ftruncate(file.fileno(), plan.size_bytes)
        kept_bytes = sum(plan.pieces[number].num_bytes for number in present)
        work = _Work(plan, folder, file.fileno(), done.fileno(), done_bytes=kept_bytes, on_bytes=on_bytes)
        with concurrent.futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="fetch") as pool:
            running = [pool.submit(work.fetch, number) for number in missing]
            try:
                for future in concurrent.futures.as_completed(running):
                    future.result()
            except BaseException:
                work.stopped.set()
                pool.shutdown(cancel_futures=True)
                raise
        os.fsync(file.fileno())
    journal.unlink()


class _Work:
    """The pieces of one file; `fetch` runs on several threads."""

    def __init__(
        self,
        plan: slice_plan.FilePlan,
        folder: folders.Folder,
        file: int,
        journal: int,
        *,
        done_bytes: int,
        on_bytes: Callable[[int, int], None],
    ) -> None:
        self.stopped = threading.Event()
        self._plan = plan
        self._folder = folder
        self._file = file
        self._journal = journal
        self._done_bytes = done_bytes
        self._on_bytes = on_bytes
        self._lock = threading.Lock()

    def fetch(self, number: int) -> None:
        piece = self._plan.pieces[number]
        at = piece.at
        for part in self._folder.stream(piece.file, piece.begin, piece.end):
            if self.stopped.is_set():
                return
            _write(self._file, part, at, field=self._folder.field)
            at += len(part)
            with self._lock:
                self._done_bytes += len(part)
                self._on_bytes(self._done_bytes, self._plan.num_bytes)
        os.fdatasync(self._file)
        with self._lock:
            os.write(self._journal, f"{number}\n".encode())


def _present(path: pathlib.Path, journal: pathlib.Path, plan: slice_plan.FilePlan) -> set[int]:
    """The pieces that an earlier process has left; a last line that it did not finish does not count."""
    if not journal.is_file() or not path.is_file() or path.stat().st_size != plan.size_bytes:
        return set()
    lines = journal.read_text(encoding="ascii", errors="replace").split("\n")[:-1]
    return {int(line) for line in lines if line.isdigit() and int(line) < len(plan.pieces)}


def _write(file: int, part: bytes, at: int, *, field: str) -> None:
    view = memoryview(part)
    try:
        while view:
            written = os.pwrite(file, view, at)
            view, at = view[written:], at + written
    except OSError as error:
        raise errors.SourceError(
            f"cannot be stored ({error.strerror or error}): give the cache more room", field=field
        ) from error


def _check_space(path: pathlib.Path, needed_bytes: int, *, field: str) -> None:
    free_bytes = shutil.disk_usage(path.parent).free
    if needed_bytes > free_bytes:
        raise errors.SourceError(
            f"{needed_bytes / 1e6:,.0f} MB are to be fetched, {path.parent} has room for {free_bytes / 1e6:,.0f} MB: "
            "give the cache more room",
            field=field,
        )
