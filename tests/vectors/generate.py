"""Makes lua/vectors.json: `make vectors`.

Nothing of the package is used and no script is run: every expected number in the modules beside this file was
worked out on paper, and its `why` shows how. So the file can contradict the code.
"""

import hashlib
import json
import re
import sys

from helpers.paths import ROOT
from vectors.buckets import BUCKETS, PEEKS
from vectors.callers import CALLERS, FAULTS
from vectors.clock import CLOCK, RESCALES
from vectors.edges import EDGES
from vectors.fast_path import USUAL
from vectors.identities import IDENTITIES
from vectors.leases import LEASES
from vectors.quotas import COUNTS
from vectors.several_limits import LAYERS
from vectors.shadows_and_alerts import ALERTS, SHADOWS
from vectors.slow_path import UNUSUAL

CASES = [*BUCKETS, *PEEKS, *CLOCK, *RESCALES, *COUNTS, *LAYERS, *USUAL, *UNUSUAL, *CALLERS, *SHADOWS, *ALERTS]
CASES += [*IDENTITIES, *LEASES, *FAULTS, *EDGES]
ABOUT = (
    "Test vectors of lua/check.lua, for clients in any language; lua/PROTOCOL.md explains the bytes. For each vector: "
    "empty the server, write `before`, run the script with `keys` and `argv`, compare the reply (or the error's text) "
    "and then all that the server holds with `after`; no key has an expiry. Bytes in a reply are hexadecimal. `means` "
    "is what has to be read out of it: status, time, and of each limit remaining and reset_us, with status 0, 3 and 4 "
    "wait_us too. Keys and hash fields are text; argv and values are "
    "hexadecimal. A value that is an object is a hash; a list of objects is a stream, its entries as text "
    "without ids; a list of texts is a sorted set, whose members all have the score inf; else it is a string. `sha1` "
    "names each script's text as it is sent. Made by tests/vectors/generate.py."
)


LUA = ROOT / "lua"


def assembled(name):
    """A script as lua/PROTOCOL.md says that it is sent."""
    text = (LUA / f"{name}.lua").read_text(encoding="utf-8")
    return re.sub(r"(?m)^ *-- @(?:include|inline) (\S+)$", lambda match: assembled(match[1]), text)


def hashes():
    """The SHA-1 of each script as it is sent."""
    names = sorted(path.stem for path in LUA.glob("*.lua"))
    return {name: hashlib.sha1(assembled(name).encode(), usedforsecurity=False).hexdigest() for name in names}


def text():
    """The file: one line for each part of a vector."""
    parts = [
        "  {\n" + ",\n".join(f"   {json.dumps(name)}: {json.dumps(value)}" for name, value in vector.items()) + "\n  }"
        for vector in CASES
    ]
    body = ",\n".join(parts)
    sha1 = ",\n".join(f"  {json.dumps(name)}: {json.dumps(sha)}" for name, sha in hashes().items())
    head = f'"about": {json.dumps(ABOUT)},\n "script": "check",\n "sha1": {{\n{sha1}\n }}'
    return f'{{\n {head},\n "vectors": [\n{body}\n ]\n}}\n'


if __name__ == "__main__":
    sys.stdout.write(text())
