"""Memory that a compute thread gives back is there for its next pass, without the kernel."""

from __future__ import annotations

import subprocess
import sys

import pytest

from milliner.core import freed_memory

# Ten times forty mebibytes, which glibc would never keep; prints how many pages had to be mapped meanwhile.
_PROGRAM = """
import asyncio, ctypes, resource
from milliner.core import freed_memory
from milliner.engine import executor

if {kept} is False:
    freed_memory.keep = lambda: False
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

def passes():
    def one(size):
        piece = libc.malloc(size)
        ctypes.memset(piece, 1, size)
        libc.free(ctypes.c_void_p(piece))
    one(40 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        one(40 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

async def main():
    worker = executor.ComputeExecutor(name="faults")
    print((await worker.run(passes))[0])
    worker.close()

asyncio.run(main())
"""


def faults(*, kept: bool) -> int:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(kept=kept)], capture_output=True, text=True, check=True, timeout=60
    )
    return int(done.stdout)


@pytest.mark.skipif(not freed_memory.keep(), reason="this C library has no such setting")
def test_passes_do_not_map_their_memory_anew() -> None:
    before, after = faults(kept=False), faults(kept=True)
    assert after < 1000, "once forty mebibytes are mapped, there they are"
    if before < 4000:
        pytest.skip("this kernel maps large pages: nothing to gain")


def test_somebodys_own_settings_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    assert not freed_memory.keep()
