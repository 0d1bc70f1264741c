"""The command line, extra `cli`. Importing `ratelimit` itself imports nothing of it."""

from __future__ import annotations

import sys

_NEEDED = frozenset({"click", "rich"})


def main() -> None:
    """Run the command line, and leave with its exit code: 2 where the extra is not installed."""
    try:
        from ratelimit.cli.app import app  # noqa: PLC0415 - needs the extra
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _NEEDED:
            raise
        sys.stderr.write("ratelimit: the command line needs the extra: pip install 'ratelimit-redis[cli]'\n")
        sys.exit(2)
    app(prog_name="ratelimit")
