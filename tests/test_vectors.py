"""lua/vectors.json, replayed by raw EVAL as a client in any other language would."""

import json
import struct

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
        reply = client.eval(source, len(vector["keys"]), *vector["keys"], *arguments)
    except ResponseError as error:
        return {"error": str(error)}
    return {"reply": reply.hex() if isinstance(reply, bytes) else reply}


def means(vector):
    """What a reply says, by lua/README.md: an array as it is; of joined states, what an array would have said."""
    reply = vector["reply"]
    if isinstance(reply, list):
        return reply
    request, states = bytes.fromhex(vector["argv"][0]), bytes.fromhex(reply)
    plan_burst, plan_rate, plan_per, quota = struct.unpack_from("<4d", request, 32)
    per, level, last, calendar, used, granted, _ = struct.unpack_from("<7d", states)
    further = range(0, len(states) - 56, 24)
    (now,) = struct.unpack("<d", states[-8:] if further else states[16:24])
    buckets = [(plan_burst, plan_rate, per, level, last)] if plan_per else []
    for at in further:
        burst, rate, _ = struct.unpack_from("<3d", request, 114 + at)
        buckets.append((burst, rate, *struct.unpack_from("<3d", states, 56 + at)))
    numbers = [1, now]
    for burst, rate, bucket_per, bucket_level, bucket_last in buckets:
        assert bucket_last == now
        numbers += [bucket_level // bucket_per, -((bucket_level - burst * bucket_per) // rate)]
    if quota >= 0:
        window = calendar // 2**20
        end = (window // 64 + window % 64) * 86_400_000_000
        numbers += [quota + granted - used, end - now]
    return numbers


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_a_vector_holds(backend, vector):
    """The script answers as the file says, and leaves exactly what the file says."""
    with backend.client() as client:
        write(client, vector["before"])
        expected = {part: vector[part] for part in ("reply", "error") if part in vector}
        assert answer(client, load("check").source, vector) == expected
        assert held(client) == vector["after"]


@pytest.mark.parametrize("vector", [vector for vector in VECTORS if "means" in vector], ids=lambda each: each["name"])
def test_joined_states_say_as_much_as_an_array(vector):
    """Read as lua/README.md says, the states of an admitted check give time, remaining and reset of each limit."""
    assert means(vector) == vector["means"]


def test_the_file_is_what_its_maker_makes():
    """lua/vectors.json is the output of tests/vectors.py, so a change of one without the other fails."""
    assert vectors.text() == STORED


def test_every_vector_has_a_name_of_its_own():
    """A client can report a vector by its name."""
    assert len({vector["name"] for vector in VECTORS}) == len(VECTORS)


def test_denied_checks_write_nothing_but_a_moved_clock():
    """Promise 1, read off the file: of all replies that are no admission, only re-anchoring ones change the state."""
    writing = {vector["name"] for vector in VECTORS if vector["before"] != vector["after"]}
    refused = {vector["name"] for vector in VECTORS if "error" in vector or means(vector)[0] not in {1, 2}}
    assert writing & refused == {
        "clock: more than 2 s back re-anchors, even when denied",
        "clock: a denial writes the shared bucket that was re-anchored, and nothing else",
        "clock: a denial writes the plan's re-anchored bucket, and its counts as they were",
        "clock: far before the window's start, the count moves back and is kept",
    }
