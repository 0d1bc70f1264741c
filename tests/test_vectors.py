"""lua/vectors.json, replayed by raw EVAL as a client in any other language would."""

import json

import pytest
import vectors
from redis.exceptions import ResponseError

from ratelimit.core.scripts import folder, load

STORED = (folder() / "vectors.json").read_text(encoding="utf-8")
VECTORS = json.loads(STORED)["vectors"]


def write(client, state):
    for key, value in state.items():
        if isinstance(value, dict):
            client.hset(key, mapping={field: bytes.fromhex(part) for field, part in value.items()})
        else:
            client.set(key, bytes.fromhex(value))


def held(client):
    """All that the server holds, as the file writes it."""
    state = {}
    for key in client.keys("*"):
        assert client.pttl(key) == -1, f"{key} has an expiry"
        kind = client.type(key)
        if kind == b"hash":
            state[key.decode()] = {field.decode(): part.hex() for field, part in client.hgetall(key).items()}
        elif kind == b"stream":
            entries = [entry for _, entry in client.xrange(key)]
            state[key.decode()] = [{name.decode(): text.decode() for name, text in entry.items()} for entry in entries]
        else:
            state[key.decode()] = client.get(key).hex()
    return state


def answer(client, source, vector):
    """The reply under "reply", or the error's text under "error"."""
    arguments = [bytes.fromhex(part) for part in vector["argv"]]
    try:
        return {"reply": client.eval(source, len(vector["keys"]), *vector["keys"], *arguments)}
    except ResponseError as error:
        return {"error": str(error)}


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_a_vector_holds(backend, vector):
    """The script answers as the file says, and leaves exactly what the file says."""
    with backend.client() as client:
        write(client, vector["before"])
        expected = {part: vector[part] for part in ("reply", "error") if part in vector}
        assert answer(client, load("check").source, vector) == expected
        assert held(client) == vector["after"]


def test_the_file_is_what_its_maker_makes():
    """lua/vectors.json is the output of tests/vectors.py, so a change of one without the other fails."""
    assert vectors.text() == STORED


def test_every_vector_has_a_name_of_its_own():
    """A client can report a vector by its name."""
    assert len({vector["name"] for vector in VECTORS}) == len(VECTORS)


def test_denied_checks_write_nothing_but_a_moved_clock():
    """Promise 1, read off the file: of all replies that are no admission, only re-anchoring ones change the state."""
    writing = {vector["name"] for vector in VECTORS if vector["before"] != vector["after"]}
    refused = {vector["name"] for vector in VECTORS if "error" in vector or vector["reply"][0] not in {1, 2}}
    assert writing & refused == {
        "clock: more than 2 s back re-anchors, even when denied",
        "clock: a denial writes the shared bucket that was re-anchored, and nothing else",
        "clock: a denial writes the plan's re-anchored bucket, and its counts as they were",
        "clock: far before the window's start, the count moves back and is kept",
    }
