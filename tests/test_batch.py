"""Checks that leave together: how calls are joined, and that nobody who meets the same limit is overtaken."""

import asyncio
import gc
import struct
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lua_tools import contract
from vector_bytes import ACCOUNT, NOW, PLAN, count, doubles, identity, together

from ratelimit.core import batch
from ratelimit.core.batch import ASK_ALONE, CheckCall, ManyChecks
from ratelimit.core.scripts import Script, ScriptCall, load
from ratelimit.store import gather
from ratelimit.store.gather import Gatherer
from ratelimit.store.line import packed

MOST_IN_BATCH = 64
ROOM = 30
BUCKET = (ROOM, 1, 10**9)
"""What all share: 30, one in 1000 s."""


def question(name, cost=1, kind=CheckCall):
    """A check, or a peek of cost 0, of a key of this name at NOW; it meets one shared bucket."""
    request = doubles(NOW, cost, 0, 1, 0, 0, 0, -1, 0, 0, 0) + identity() + doubles(*BUCKET)
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
        told = len(keys), *keys, *arguments
        assert many.by_source() == ("EVAL", script.source, *told)
        assert many.packet == packed([("EVALSHA", script.sha, *told)])
    assert one.by_hash()[3:] == ("k1", "s", *one.args)


def test_checks_that_are_alike_share_their_terms():
    """As long as there are such checks: a plan that went leaves nothing behind."""
    gc.collect()
    before = len(batch._all_terms)
    calls = [question(f"k{number}") for number in range(100)] + [question("k1", 2)]
    many = ManyChecks(calls)
    assert len(batch._all_terms) == before + 2
    assert len(many.packet) < 100 * (4 * 26)
    del calls, many
    gc.collect()
    assert len(batch._all_terms) == before


def test_a_check_is_a_call_of_its_own_too():
    """With its layout beside it, a call that can be asked with others is sent alone as any other."""
    call = question("k")
    assert call.by_hash() == ScriptCall(load("check"), call.keys, call.args).by_hash()
    assert contract("check_many").title.startswith("-- check_many: ")
    assert ASK_ALONE not in contract("check").replies


@settings(max_examples=50, deadline=None)
@given(kinds=st.lists(st.sampled_from("CCCCCCCCcsS"), max_size=300))
def test_batches_keep_the_order(kinds):
    """C and c are checks, S and s are not; whoever is in small letters has given up before it is sent."""

    async def batches():
        gatherer, loop, found = Gatherer(None), asyncio.get_running_loop(), []
        for place, kind in enumerate(kinds):
            future = loop.create_future()
            if kind.islower():
                future.cancel()
            call = question(place) if kind in "Cc" else question(place, 0, ScriptCall)
            gatherer._scripts.waiting.append((call, future))
        while gatherer._scripts.waiting:
            found.append([call for call, _ in gatherer._next(gatherer._scripts)])
        return found

    taken = asyncio.run(batches())
    names = [call.keys[0] for batch in taken for call in batch]
    assert names == [f"ratelimit:{{{place}}}" for place, kind in enumerate(kinds) if kind.isupper()]
    assert all(len(list(groupby(batch, type))) <= 1 for batch in taken)
    assert all(len(batch) <= MOST_IN_BATCH for batch in taken)


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
    monkeypatch.setattr(gather, "_MOST_IN_FLIGHT", 1)
    peeks = {8, 30, 31, 60}
    asked = []
    for place in range(90):
        name = f"new{place}" if place in new else f"old{place % 3}"
        asked.append(question(name, 0, ScriptCall) if place in peeks else question(name))

    async def all_at_once():
        async with server.async_client() as client:
            gatherer = Gatherer(client.connection_pool)
            replies = await asyncio.gather(*(gatherer.call(call) for call in asked))
            await gatherer.close()
            return replies

    with server.client() as client:
        for name in ("check", "check_many"):
            client.script_load(load(name).source)
        for call in asked:
            client.hset(call.keys[0], "r", identity())
            if "old" in call.keys[0]:
                client.hset(call.keys[0], PLAN, count(0, first=0, days=0))
    replies = asyncio.run(all_at_once())
    checks_before = [len(set(range(place + 1)) - peeks) for place in range(90)]
    assert [left(reply) for reply in replies] == [max(0, ROOM - before) for before in checks_before]
    denied = [isinstance(reply, list) and reply[0] == 0 for reply in replies]
    assert denied == [
        before > ROOM or (before == ROOM and place in peeks) for place, before in enumerate(checks_before)
    ]


def test_batches_overlap_in_order(server):
    """Of 600 checks of known keys, sent while others are not answered yet, each finds what those before it left."""
    asked = [question(f"old{place % 3}") for place in range(600)]
    on_their_way, most = 0, 0
    right = Gatherer._put

    def counted(gatherer, packets, answered):
        nonlocal on_their_way, most

        def came(replies):
            nonlocal on_their_way
            on_their_way -= 1
            answered(replies)

        on_their_way += 1
        most = max(most, on_their_way)
        right(gatherer, packets, came)

    async def all_at_once():
        async with server.async_client() as client:
            gatherer = Gatherer(client.connection_pool)
            gatherer._put = counted.__get__(gatherer)
            replies = await asyncio.gather(*(gatherer.call(call) for call in asked))
            await gatherer.close()
            return replies

    with server.client() as client:
        for name in ("check", "check_many"):
            client.script_load(load(name).source)
        for call in asked[:3]:
            client.hset(call.keys[0], "r", identity())
            client.hset(call.keys[0], PLAN, count(0, first=0, days=0))
    replies = asyncio.run(all_at_once())
    assert [left(reply) for reply in replies] == [max(0, ROOM - before) for before in range(1, 601)]
    assert most == 2
