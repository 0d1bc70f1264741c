"""Makes lua/vectors.json: `python tests/vectors.py > lua/vectors.json`.

Nothing of the package is used and no script is run: every expected number in the vector_*.py beside this file was
worked out on paper, and its `why` shows how. So the file can contradict the code.
"""

import json
import sys

from vector_buckets import BUCKETS, PEEKS
from vector_callers import CALLERS, FAULTS
from vector_clock import CLOCK, RESCALES
from vector_counts import COUNTS
from vector_extras import ALERTS, SHADOWS
from vector_layers import LAYERS
from vector_unusual import UNUSUAL
from vector_usual import USUAL

CASES = [*BUCKETS, *PEEKS, *CLOCK, *RESCALES, *COUNTS, *LAYERS, *USUAL, *UNUSUAL, *CALLERS, *SHADOWS, *ALERTS, *FAULTS]
ABOUT = (
    "Test vectors of lua/check.lua, for clients in any language; lua/README.md explains the bytes. For each vector: "
    "empty the server, write `before`, run the script with `keys` and `argv`, compare the reply (or the error's text) "
    "and then all that the server holds with `after`; no key has an expiry. Bytes in a reply are hexadecimal. `means` is what "
    "has to be read out of it: status, time, and of each limit remaining and reset_us, with status 0 and 3 wait_us too. Keys and hash fields are text; argv and values are "
    "hexadecimal. A value that is an object is a hash; a list is a stream, its entries as text without ids; else it is "
    "a string. Made by tests/vectors.py."
)


def text():
    """The file: one line for each part of a vector."""
    parts = [
        "  {\n" + ",\n".join(f"   {json.dumps(name)}: {json.dumps(value)}" for name, value in vector.items()) + "\n  }"
        for vector in CASES
    ]
    body = ",\n".join(parts)
    return f'{{\n "about": {json.dumps(ABOUT)},\n "script": "check",\n "vectors": [\n{body}\n ]\n}}\n'


if __name__ == "__main__":
    sys.stdout.write(text())
