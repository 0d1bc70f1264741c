"""lua/vectors.json on a server: what a vector writes, what the script answers, and what the server then holds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from math import inf
from typing import Any

from ratelimit.scripts import folder, load

Vector = Mapping[str, Any]
"""One vector, as the file has it."""


def vectors() -> list[dict[str, Any]]:
    """Return all of them."""
    document = json.loads((folder() / "vectors.json").read_text(encoding="utf-8"))
    return list(document["vectors"])


def names_of(vector: Vector) -> set[str]:
    """Return the names of all that a vector is about."""
    return {*vector["keys"], *vector["before"], *vector["after"]}


def in_one_slot(vector: Vector, namespace: str, prefix: str) -> dict[str, Any]:
    """Return a vector of another namespace than "ratelimit", whose names are all in one slot of a cluster.

    Args:
        vector: The vector.
        namespace: The namespace.
        prefix: Of the caller's id, which is the hash tag of all names: so it decides which slot that is.
    """
    caller = next((name for name in vector["keys"] if "{" in name), "ratelimit:{}")
    of_identity, key_id = re.fullmatch(r"ratelimit:\{(~?)(.*)\}", caller).groups()  # type: ignore[union-attr]
    key_id = f"{of_identity}{prefix}{key_id}"  # an identity is counted by the digest, with which the id ends

    def own(name: str) -> str:
        tagged = f"{namespace}:{{{key_id}}}"
        return tagged if name == caller else name.replace("ratelimit:", f"{tagged}:", 1)

    def own_entries(value: Any) -> Any:
        is_stream = isinstance(value, list) and value and isinstance(value[0], dict)
        return [{**entry, "key": key_id} for entry in value] if is_stream else value

    changed = {**vector, "keys": [own(name) for name in vector["keys"]]}
    for part in ("before", "after"):
        changed[part] = {own(name): own_entries(value) for name, value in vector[part].items()}
    if "error" in vector:
        changed["error"] = own(vector["error"])
    return changed


def write(client: Any, state: Mapping[str, Any]) -> None:
    """Make a server hold a state."""
    for name, value in state.items():
        if isinstance(value, dict):
            client.hset(name, mapping={each: bytes.fromhex(part) for each, part in value.items()})
        elif isinstance(value, list):
            client.zadd(name, dict.fromkeys(value, inf))
        else:
            client.set(name, bytes.fromhex(value))


def answer(client: Any, vector: Vector) -> dict[str, Any]:
    """Run the script of a vector; return its reply, or the text of its error."""
    arguments = [bytes.fromhex(part) for part in vector["argv"]]
    try:
        reply = client.eval(load("check").source, len(vector["keys"]), *vector["keys"], *arguments)
    except Exception as error:
        if not str(error).startswith("RATELIMIT "):  # else it is no error of the script's
            raise
        return {"error": str(error)}
    return {"reply": _hexed(reply)}


def held(client: Any, names: Iterable[str]) -> dict[str, Any]:
    """Return what a server holds of these keys, as the file writes it; "expires" marks a key that has an expiry."""
    state: dict[str, Any] = {}
    for name in names:
        kind = client.type(name)
        if kind == b"none":
            continue
        if kind == b"hash":
            state[name] = {each.decode(): part.hex() for each, part in client.hgetall(name).items()}
        elif kind == b"stream":
            entries = [entry for _, entry in client.xrange(name)]
            state[name] = [{each.decode(): text.decode() for each, text in entry.items()} for entry in entries]
        elif kind == b"zset":
            members = client.zrange(name, 0, -1, withscores=True)
            # The file writes scores of `inf` alone, so any other is shown.
            state[name] = [each.decode() if score == inf else (each.decode(), score) for each, score in members]
        else:
            state[name] = client.get(name).hex()
        if client.pttl(name) != -1:
            state[name] = {"expires": state[name]}
    return state


def _hexed(reply: Any) -> Any:
    if isinstance(reply, list):
        return [_hexed(each) for each in reply]
    return reply.hex() if isinstance(reply, bytes) else reply
