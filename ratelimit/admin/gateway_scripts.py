"""Loads the scripts that a gateway calls: then the gateway's Redis user needs no permission for EVAL."""

from __future__ import annotations

from ratelimit.effects import AtNode, IndependentAtNode, Operation, Primaries
from ratelimit.scripts import load

GATEWAY_SCRIPTS = (
    *("check", "check_many", "return_lease", "archive", "repair", "charge_journal", "heartbeat"),
    "shared_lease",
)
"""All others are called by administrators alone."""


def load_into_primaries(name: str) -> Operation[None]:
    """Load a script into every primary before it is called many times at once, if this user may do that."""
    for node in (yield Primaries()):
        yield IndependentAtNode(node, [("SCRIPT", "LOAD", load(name).source)])


def load_scripts() -> Operation[dict[str, str]]:
    """Load the scripts that a gateway calls into every primary; return the SHA-1 of each by its name."""
    for node in (yield Primaries()):
        yield AtNode(node, [("SCRIPT", "LOAD", load(name).source) for name in GATEWAY_SCRIPTS])
    return {name: load(name).sha for name in GATEWAY_SCRIPTS}
