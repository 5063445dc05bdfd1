"""A toy cloud in a process of its own, for tests that kill or stop it: prints its port, then serves until killed."""

from __future__ import annotations

import asyncio
import sys

from tests.wire import toy_cloud

from milliner.wire import server


async def main() -> None:
    """Serves for ever."""
    running = await server.serve(toy_cloud.ToyCloud(max_frame_tokens=1 << 20))
    print(running.port, flush=True)
    await running.wait()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
