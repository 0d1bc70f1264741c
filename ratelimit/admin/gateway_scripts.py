"""The scripts that a gateway calls, given to the server by an administrator: then the gateway's user needs no EVAL."""

from __future__ import annotations

from ratelimit.effects import Operation
from ratelimit.scripts import load

CALLED = ("check", "check_many", "return_lease", "archive")
"""By a gateway; all others are an administrator's."""


def load_scripts() -> Operation[dict[str, str]]:
    """Teach the server all that a gateway calls; return the SHA-1 of each by its name."""
    yield [("SCRIPT", "LOAD", load(name).source) for name in CALLED]
    return {name: load(name).sha for name in CALLED}
