"""Where the console script enters: imports nothing before Ctrl-C has a meaning, which is exit status 130, in silence.

The commands themselves are `main`'s; importing them takes long enough for a person to change their mind.
"""

from __future__ import annotations

import sys

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main() -> None:
    """Runs the command line and exits the process."""
    try:
        from milliner.cli import main as command_line

        command_line.main()
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
