"""The ceilings of the command line: how many things its commands may make, from RATELIMIT_CEILINGS."""

from __future__ import annotations

import os
from dataclasses import fields, replace

from ratelimit.errors import ConfigError
from ratelimit.registry.ceilings import Ceilings

CEILINGS = "RATELIMIT_CEILINGS"

_NAMES = tuple(field.name for field in fields(Ceilings))


def ceilings() -> Ceilings:
    """Return the ceilings that the variable describes: "aws", "plans=300,keys=50000", "aws,keys=none".

    What comes later counts. Raises ConfigError for anything else.
    """
    found = Ceilings()
    for part in os.environ.get(CEILINGS, "").replace(" ", "").split(","):
        name, _, number = part.partition("=")
        if part == "aws":
            found = Ceilings.aws()
        elif name in _NAMES and number == "none":
            found = replace(found, **{name: None})
        elif name in _NAMES and number.isascii() and number.isdigit() and len(number) < 16:
            found = replace(found, **{name: int(number)})
        elif part:
            known = f"aws, or NAME=NUMBER or NAME=none of {', '.join(_NAMES)}, with commas between"
            raise ConfigError(f"cannot be read at {part!r}: write {known}", field=CEILINGS)
    return found
