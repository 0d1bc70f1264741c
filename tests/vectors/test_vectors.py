"""lua/vectors.json, replayed by raw EVAL as a client in any other language would."""

import json
import struct

import pytest
from vectors import generate as vectors

from ratelimit.scripts import folder, load
from ratelimit.testing import vectors as replay

STORED = (folder() / "vectors.json").read_text(encoding="utf-8")
VECTORS = json.loads(STORED)["vectors"]


def means(vector):
    """What a reply says, by lua/PROTOCOL.md: status, time, and of each limit remaining, reset, and wait if denied."""
    reply = vector["reply"]
    if isinstance(reply, list) and len(reply) == 2:
        return reply
    request = bytes.fromhex(vector["argv"][0])
    cost, _, flags, plan_burst, plan_rate, plan_per, quota = struct.unpack_from("<7d", request, 8)
    has_last_key, has_shadow, is_lease = flags % 16 >= 8 or flags % 256 >= 128, flags % 8 >= 4, flags >= 256
    shared = len(vector["keys"]) - flags % 2 - has_last_key
    others = has_shadow * (1 + (flags % 32 >= 16)) + 2 * is_lease
    own = len(vector["argv"]) - 2 - others if flags % 2 else 0
    rules = [(plan_burst, plan_rate, plan_per)] * (plan_per > 0)
    rules += [struct.unpack_from("<3d", request, 114 + 24 * at) for at in range(int(own + shared))]
    if isinstance(reply, str):
        states = bytes.fromhex(reply)
        calendar, used, granted = struct.unpack_from("<3d", states, 24)
        window = calendar // 2**20
        buckets = [states[8:24]] * (plan_per > 0) + [states[at + 8 : at + 24] for at in range(56, len(states), 24)]
        limits = [struct.unpack("<dd", bucket) for bucket in buckets]
        status, (now,) = 1, struct.unpack("<d", states[-8:] if len(states) > 56 else states[16:24])
        limits += [(quota + granted - used, (window // 64 + window % 64) * 86_400_000_000)]
    else:
        status, now, packed = reply
        limits = list(struct.iter_unpack("<dd", bytes.fromhex(packed)))
    numbers = [status, now]
    for (burst, rate, per), (level, last) in zip(rules, limits, strict=False):
        if rate:
            numbers += [max(0, level // per), last - now - (level - burst * per) // rate]
        else:
            numbers += [0, -1]
        if status in {0, 3, 4}:
            short = max(cost, 1) * per - level
            never = not rate or cost > burst
            numbers += [-1 if never else last - now - -short // rate if short > 0 else 0]
    if quota >= 0:
        left, end = limits[-1]
        numbers += [left, end - now]
        if status in {0, 3, 4}:
            numbers += [0 if max(cost, 1) <= left else -1 if cost > quota else end - now]
    return numbers


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_a_vector_holds(backend, vector):
    """The script answers as the file says, and leaves exactly what the file says."""
    with backend.client() as client:
        replay.write(client, vector["before"])
        expected = {part: vector[part] for part in ("reply", "error") if part in vector}
        assert replay.answer(client, vector) == expected
        assert replay.held(client, [key.decode() for key in client.keys("*")]) == vector["after"]


@pytest.mark.parametrize("vector", [vector for vector in VECTORS if "means" in vector], ids=lambda each: each["name"])
def test_a_reply_says_what_it_means(vector):
    """Read as lua/PROTOCOL.md says, a reply gives time, remaining and reset of each limit, and wait if it denies."""
    assert means(vector) == vector["means"]


def test_the_file_is_what_its_maker_makes():
    """lua/vectors.json is the output of tests/vectors/generate.py, so a change of one without the other fails."""
    assert vectors.text() == STORED


def test_it_names_the_scripts():
    """By `sha1` a client finds that what it puts together is what was meant: the hash of what is sent."""
    assert json.loads(STORED)["sha1"] == {path.stem: load(path.stem).sha for path in folder().glob("*.lua")}


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
