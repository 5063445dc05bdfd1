"""Toy clouds of both services in one process, for tests that kill or stop it: prints its port, then serves."""

from __future__ import annotations

import asyncio
import sys

from tests.wire import toy_cloud, toy_tokens

from milliner.wire import server


async def main() -> None:
    """Serves for ever."""
    running = await server.serve(toy_cloud.ToyCloud(max_frame_tokens=1 << 20), tokens=toy_tokens.ToyTokens(step_s=0.01))
    print(running.port, flush=True)
    await running.wait()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
