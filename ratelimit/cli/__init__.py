"""The command `ratelimit` (extra `cli`). Imports all rooms; no room imports it.

This module imports the standard library only, so that it can say what is missing where imports fail.
"""

from __future__ import annotations

import sys

from ratelimit.cli import installation

_EXTRA = frozenset({"click", "rich"})
_MISSING_EXTRA = "ratelimit: the command line needs the extra: pip install 'ratelimit-redis[cli]'"


def main() -> None:
    """Run the command line and exit.

    Exit codes of its own: 2 if the extra is not installed, 4 if the installation is damaged.
    """
    problem = installation.problem()
    if problem is not None:
        sys.stderr.write(f"{problem}\n")
        sys.exit(installation.EXIT_CODE)
    try:
        from ratelimit.cli.app import app  # noqa: PLC0415 - needs the extra
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        sys.stderr.write(f"{_MISSING_EXTRA}\n")
        sys.exit(2)
    app(prog_name="ratelimit")
