"""Loads the scripts that a gateway calls: then the gateway's Redis user needs no permission for EVAL."""

from __future__ import annotations

from ratelimit.effects import Operation
from ratelimit.scripts import load

GATEWAY_SCRIPTS = (
    *("check", "check_many", "return_lease", "archive", "repair", "charge_journal", "heartbeat"),
    "shared_lease",
)
"""All others are called by administrators alone."""


def load_scripts() -> Operation[dict[str, str]]:
    """Load the scripts that a gateway calls into the server; return the SHA-1 of each by its name."""
    yield [("SCRIPT", "LOAD", load(name).source) for name in GATEWAY_SCRIPTS]
    return {name: load(name).sha for name in GATEWAY_SCRIPTS}
