"""RATELIMIT_CEILINGS: how many plans, keys and so on the commands may create."""

from __future__ import annotations

import os
from dataclasses import fields, replace

from ratelimit.errors import ConfigError
from ratelimit.registry.ceilings import Ceilings

CEILINGS = "RATELIMIT_CEILINGS"

_NAMES = tuple(field.name for field in fields(Ceilings))


def ceilings() -> Ceilings:
    """Return the ceilings that the variable describes: "aws", "plans=300,keys=50000", "aws,keys=none".

    Later parts override earlier ones.

    Raises:
        ConfigError: A part is none of these.
    """
    parsed = Ceilings()
    for part in os.environ.get(CEILINGS, "").replace(" ", "").split(","):
        name, _, number = part.partition("=")
        if part == "aws":
            parsed = Ceilings.aws()
        elif name in _NAMES and number == "none":
            parsed = replace(parsed, **{name: None})
        elif name in _NAMES and number.isascii() and number.isdigit() and len(number) < 16:
            parsed = replace(parsed, **{name: int(number)})
        elif part:
            accepted = f"aws, NAME=NUMBER or NAME=none, separated by commas; a NAME is one of {', '.join(_NAMES)}"
            raise ConfigError(f"cannot be read at {part!r}: write {accepted}", field=CEILINGS)
    return parsed
