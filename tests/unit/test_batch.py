"""Checks that leave together: how calls are joined, and that nobody who meets the same limit is overtaken."""

import asyncio
import gc
import struct
from itertools import groupby

import pytest
from helpers.batching import batcher_of
from helpers.lua_tools import contract
from hypothesis import given, settings
from hypothesis import strategies as st
from vectors.packing import ACCOUNT, NOW, PLAN, count, doubles, together, version_token

from ratelimit.engine import batch
from ratelimit.engine.batch import RETRY_INDIVIDUALLY, CheckCall, ManyChecks
from ratelimit.scripts import Script, ScriptCall, load
from ratelimit.store.aio import batcher as batcher_module
from ratelimit.store.aio.batcher import CheckBatcher
from ratelimit.store.resp import pack

MOST_IN_BATCH = 64
NEVER_S = 3600.0
"""No round trip takes as long: a busy machine is no network."""
ROOM = 30
BUCKET = (ROOM, 1, 10**9)
"""What all share: 30, one in 1000 s."""


def prepared(name, cost=1, kind=CheckCall):
    """A check, or a peek of cost 0, of a key of this name at NOW; it meets one shared bucket."""
    request = doubles(NOW, cost, 0, 1, 0, 0, 0, -1, 0, 0, 0) + version_token() + doubles(*BUCKET)
    keys, arguments = (f"ratelimit:{{{name}}}", ACCOUNT), (request, PLAN)
    if kind is CheckCall:
        return CheckCall(load("check"), keys, arguments, bytes((0, 1)))
    return ScriptCall(load("check"), keys, arguments)


def left(reply):
    """What is left of the shared bucket, by either form of a reply."""
    level, _ = struct.unpack("<2d", (reply[2] if isinstance(reply, list) else reply)[-16:])
    return level // BUCKET[2]


def test_calls_are_joined_in_order():
    """What checks have in common is said once, as lua/PROTOCOL.md has it, in one call of check_many.lua."""
    script, limits = load("check_many"), {"a": b"1" * 88, "b": b"2" * 88}

    def call(key, terms, *, shared=("s",), fields=("p:1",), layout=b"\0\1", tail=bytes(24)):
        request = limits[terms] + f"identity of the key {key:6}".encode() + tail
        return CheckCall(Script("x"), (key, *shared), (request, *fields), layout)

    one, like_it = call("k1", "a"), call("k2", "a")
    other = call("k1", "b", shared=(), fields=("p:2", "b:2"), layout=b"\1\0")
    for calls in ([one], [one, like_it], [one, one], [one, other, one, like_it], [call("k1", "a"), call("k2", "a")]):
        many = ManyChecks(calls)
        keys, arguments = together([(each.keys, each.args, each.layout) for each in calls])
        parameters = len(keys), *keys, *arguments
        assert many.by_source() == ("EVAL", script.source, *parameters)
        assert many.packet == pack([("EVALSHA", script.sha, *parameters)])
    assert one.by_hash()[3:] == ("k1", "s", *one.args)


def test_checks_that_are_alike_share_their_template():
    """As long as there are such checks: a plan that went leaves nothing behind."""
    gc.collect()
    before = len(batch._templates)
    calls = [prepared(f"k{number}") for number in range(100)] + [prepared("k1", 2)]
    many = ManyChecks(calls)
    assert len(batch._templates) == before + 2
    assert len(many.packet) < 100 * (4 * 26)
    del calls, many
    gc.collect()
    assert len(batch._templates) == before


def test_a_check_is_a_call_of_its_own_too():
    """With its layout beside it, a call that can be asked with others is sent alone as any other."""
    call = prepared("k")
    assert call.by_hash() == ScriptCall(load("check"), call.keys, call.args).by_hash()
    assert contract("check_many").title.startswith("-- check_many: ")
    assert RETRY_INDIVIDUALLY not in contract("check").replies


@settings(max_examples=50, deadline=None)
@given(kinds=st.lists(st.sampled_from("CCCCCCCCcsS"), max_size=300))
def test_batches_keep_the_order(kinds):
    """C and c are checks, S and s are not; whoever is in small letters has given up before it is sent."""

    async def batches():
        batcher, loop, joined = CheckBatcher(None, 1.0), asyncio.get_running_loop(), []
        for place, kind in enumerate(kinds):
            future = loop.create_future()
            if kind.islower():
                future.cancel()
            call = prepared(place) if kind in "Cc" else prepared(place, 0, ScriptCall)
            batcher._scripts.waiting.append((call, future, 0.0))
        while batcher._scripts.waiting:
            joined.append([call for call, _, _ in batcher._take(batcher._scripts)])
        return joined

    taken = asyncio.run(batches())
    names = [call.keys[0] for batch in taken for call in batch]
    assert names == [f"ratelimit:{{{place}}}" for place, kind in enumerate(kinds) if kind.isupper()]
    assert all(len(list(groupby(batch, type))) <= 1 for batch in taken)
    assert all(len(batch) <= MOST_IN_BATCH for batch in taken)


def charged_before(server, calls):
    """Have the server know the scripts, and each key of the calls have been charged under the plan before."""
    with server.client() as client:
        for name in ("check", "check_many"):
            client.script_load(load(name).source)
        for call in calls:
            client.hset(call.keys[0], mapping={"r": version_token(), PLAN: count(0, first=0, days=0)})


def all_at_once(server, calls):
    """The replies to calls that are sent in one tick."""

    async def send():
        async with server.async_client() as client:
            batcher = batcher_of(client)
            replies = await asyncio.gather(*(batcher.call(call) for call in calls))
            await batcher.close()
            return replies

    return asyncio.run(send())


@pytest.mark.parametrize(
    "new",
    [{0}, {5, 6}, {17, 40, 41}, set(range(0, 90, 7)), set(range(90))],
    ids=["the first", "two in a row", "in several batches", "every seventh", "all"],
)
def test_nobody_is_overtaken(server, new, monkeypatch):
    """Of 90 checks and peeks of one tick, each finds exactly what those before it left of the bucket that all share.

    Whose key is `new` cannot be answered together with others: it was charged nothing yet. One batch at a time: another
    that was on its way already could come before what this one left out.
    """
    monkeypatch.setattr(batcher_module, "_MAX_IN_FLIGHT", 1)
    monkeypatch.setattr(batcher_module, "_LONG_ROUND_TRIP_S", NEVER_S)
    peeks = {8, 30, 31, 60}
    calls = []
    for place in range(90):
        name = f"new{place}" if place in new else f"old{place % 3}"
        calls.append(prepared(name, 0, ScriptCall) if place in peeks else prepared(name))

    charged_before(server, [call for call in calls if "old" in call.keys[0]])
    with server.client() as client:
        for call in calls:
            client.hset(call.keys[0], "r", version_token())
    replies = all_at_once(server, calls)
    checks_before = [len(set(range(place + 1)) - peeks) for place in range(90)]
    assert [left(reply) for reply in replies] == [max(0, ROOM - before) for before in checks_before]
    denied = [isinstance(reply, list) and reply[0] == 0 for reply in replies]
    assert denied == [
        before > ROOM or (before == ROOM and place in peeks) for place, before in enumerate(checks_before)
    ]


def test_batches_overlap_in_order(server, monkeypatch):
    """Of 600 checks of known keys, sent while others are not answered yet, each finds what those before it left."""
    calls = [prepared(f"old{place % 3}") for place in range(600)]
    on_their_way, most = 0, 0
    right = CheckBatcher._write

    def counted(batcher, packets, answered):
        nonlocal on_their_way, most

        def came(replies):
            nonlocal on_their_way
            on_their_way -= 1
            answered(replies)

        on_their_way += 1
        most = max(most, on_their_way)
        right(batcher, packets, came)

    monkeypatch.setattr(CheckBatcher, "_write", counted)
    monkeypatch.setattr(batcher_module, "_LONG_ROUND_TRIP_S", NEVER_S)
    charged_before(server, calls[:3])
    replies = all_at_once(server, calls)
    assert [left(reply) for reply in replies] == [max(0, ROOM - before) for before in range(1, 601)]
    assert most == 2
