"""Administrators who change the catalogue at the same moment, on every real server: its rules hold afterwards, always.

Each round sets a scene, lets threads go at once, each with a connection of its own, and looks at what holds then.
"""

import json
import re
import threading
import time
from contextlib import ExitStack
from functools import partial
from itertools import combinations

from ratelimit import Catalog, Conflict, NotFound, Throttle, UsagePlan

TEN = Throttle(10, 5)
GOLD = UsagePlan("gold", TEN, None, ["petstore/prod"])
RIVAL = UsagePlan("rival", TEN, None, ["petstore/prod"])
HARMLESS = UsagePlan("rival", TEN, None, ["petstore/test"])
VALUE = "my-own-key-value-0001"
SECONDS = 0.3


def rounds(server):
    """Yield an emptied server's client and three catalogues on clients of their own, for SECONDS."""
    with ExitStack() as stack:
        client, *others = [stack.enter_context(server.client()) for _ in range(4)]
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            client.flushall()
            yield client, *map(Catalog, others)


def at_once(*calls):
    """What each call returned or raised; all start together."""
    results = [None] * len(calls)
    gate = threading.Barrier(len(calls))

    def run(at, call):
        gate.wait()
        try:
            results[at] = call()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            results[at] = error

    threads = [threading.Thread(target=run, args=item) for item in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def broken(client):
    """Every rule that the stored catalogue breaks."""
    fields = {name.decode(): text for name, text in client.hgetall("{ratelimit}:catalog").items()}
    stages = {name[5:]: set(json.loads(text)["stages"]) for name, text in fields.items() if name.startswith("plan:")}
    records = [json.loads(client.get(key)) for key in client.keys("ratelimit:{*}:record")]
    ids = {record["id"] for record in records}
    joined = {(plan, record["id"]) for record in records for plan in record["plans"]}
    hashes = {f"ratelimit:{{{record['id']}}}": record["stamp"] for record in records}
    sets = {
        (key.decode().split(":")[2], member.decode())
        for key in client.keys("{ratelimit}:plan:*:keys")
        for member in client.smembers(key)
    }
    claims = {key.decode().split(":")[2]: client.get(key).decode() for key in client.keys("ratelimit:digest:*")}
    index = {digest: claim.partition(":")[0] for digest, claim in claims.items()}
    pairs = [pair for record in records for pair in combinations(record["plans"], 2)]
    rules = {
        "a key is in no plan that is gone": {plan for plan, _ in joined} <= set(stages),
        "a key is in one plan per stage": not any(stages[one] & stages[other] for one, other in pairs),
        "the sets of keys are those of the records": sets == joined,
        "the index of digests is that of the records": index
        == {digest: record["id"] for record in records for digest in record["digests"]},
        "each claim of a value has a token": all(re.fullmatch(r"\w+:[\w-]{8}", claim) for claim in claims.values()),
        "the list of keys is that of the records": {key.decode() for key in client.zrange("{ratelimit}:keys", 0, -1)}
        == ids,
        "each hash goes by its record": {
            key.decode(): client.hget(key, "r")[18:].decode() for key in client.keys("ratelimit:{*}")
        }
        == hashes,
    }
    return [rule for rule, holds in rules.items() if not holds]


def kinds(results):
    """What came of the calls, in any order: "done", or the name of an error."""
    return sorted(type(item).__name__ if isinstance(item, Exception) else "done" for item in results)


def test_a_plan_grows_while_a_key_joins_it(server):
    """One of both happens: the other is refused, for the key would be in two plans of one stage."""
    for client, one, other, _ in rounds(server):
        one.put_plan(GOLD)
        one.put_plan(HARMLESS)
        key = one.create_key(plans=["gold"])
        results = at_once(partial(one.put_plan, RIVAL), partial(other.add_key_to_plan, key.id, "rival"))
        assert kinds(results) == ["Conflict", "done"]
        assert broken(client) == []


def test_a_key_joins_two_plans_of_one_stage(server):
    """Two administrators, one key: the first wins, and the other gets the reason."""
    for client, one, other, _ in rounds(server):
        one.put_plan(GOLD)
        one.put_plan(RIVAL)
        key = one.create_key()
        results = at_once(partial(one.add_key_to_plan, key.id, "gold"), partial(other.add_key_to_plan, key.id, "rival"))
        assert kinds(results) == ["Conflict", "done"]
        assert len(one.get_key(key.id).plans) == 1
        assert broken(client) == []


def test_two_keys_are_made_with_one_value(server):
    """One is made; the other is refused with the id of the first."""
    for client, one, other, _ in rounds(server):
        one.put_plan(GOLD)
        results = at_once(*(partial(admin.create_key, value=VALUE, plans=["gold"]) for admin in (one, other)))
        assert kinds(results) == ["Conflict", "done"]
        refused, made = sorted(results, key=lambda item: not isinstance(item, Conflict))
        assert made.id in str(refused)
        assert broken(client) == []


def test_a_plan_goes_while_a_key_is_made_in_it(server):
    """Either the plan is gone and the key was not made, or the key is there and the plan stays."""
    for client, one, other, _ in rounds(server):
        one.put_plan(GOLD)
        results = at_once(partial(one.delete_plan, "gold"), partial(other.create_key, plans=["gold"]))
        assert kinds(results) in (["Conflict", "done"], ["NotFound", "done"])
        assert isinstance(results[1], NotFound) == (one.plans() == [])
        assert broken(client) == []


def test_a_key_goes_while_it_is_changed(server):
    """It is gone afterwards, with nothing left of it, whether or not the changes came first."""
    for client, one, other, third in rounds(server):
        one.put_plan(GOLD)
        key = one.create_key()
        deleted, *changed = at_once(
            partial(one.delete_key, key.id),
            partial(other.add_key_to_plan, key.id, "gold"),
            partial(third.rotate_key, key.id, grace_s=60),
        )
        assert deleted is None
        assert {type(item).__name__ for item in changed} <= {"ApiKey", "CreatedKey", "NotFound"}
        assert client.keys("*") == [b"{ratelimit}:catalog"]


def test_a_key_is_changed_in_three_ways(server):
    """All changes hold: none is lost."""
    for client, one, other, third in rounds(server):
        one.put_plan(GOLD)
        key = one.create_key("Me")
        results = at_once(
            partial(one.update_key, key.id, name="You"),
            partial(other.add_key_to_plan, key.id, "gold"),
            partial(third.update_key, key.id, enabled=False),
        )
        assert kinds(results) == ["done"] * 3
        stored = one.get_key(key.id)
        assert (stored.name, stored.plans, stored.enabled) == ("You", ("gold",), False)
        assert broken(client) == []


def test_a_key_is_rotated_twice(server):
    """One rotation follows the other: one value opens the key, and the index knows no other."""
    for client, one, other, _ in rounds(server):
        one.put_plan(GOLD)
        key = one.create_key(plans=["gold"])
        results = at_once(partial(one.rotate_key, key.id), partial(other.rotate_key, key.id))
        assert kinds(results) == ["done", "done"]
        assert len(client.keys("ratelimit:digest:*")) == 1
        assert broken(client) == []


def test_an_empty_namespace_is_begun_twice(server):
    """Two first writers: one catalogue comes of it, with what both wrote."""
    for client, one, other, third in rounds(server):
        results = at_once(partial(one.put_plan, GOLD), other.create_key)
        assert kinds(results) == ["done", "done"]
        assert third.plans() == [GOLD]
        assert client.zcard("{ratelimit}:keys") == 1
        assert broken(client) == []


def test_plans_are_put_at_once(server):
    """No put is lost: all plans hold, and the version has moved once for each."""
    for client, *admins in rounds(server):
        plans = [UsagePlan(f"p{i}", TEN, None, ["petstore/prod"]) for i in range(3)]
        results = at_once(*(partial(admin.put_plan, plan) for admin, plan in zip(admins, plans, strict=True)))
        assert kinds(results) == ["done"] * 3
        assert admins[0].plans() == plans
        assert client.hget("{ratelimit}:catalog", "version") == b"3"


def test_a_plan_file_is_applied_while_a_key_is_made(server, tmp_path):
    """The file holds whole or not at all, and no key is left in a plan that it removed."""
    path = tmp_path / "plans.toml"
    path.write_text('[plans.rival]\nthrottle = {rate = 10, burst = 5}\nstages = ["petstore/prod"]\n')
    for client, one, other, _ in rounds(server):
        one.put_plan(GOLD)
        results = at_once(partial(one.apply, path), partial(other.create_key, plans=["gold"]))
        assert kinds(results) in (["Conflict", "done"], ["NotFound", "done"])
        assert one.plans() == ([RIVAL] if isinstance(results[1], NotFound) else [GOLD])
        assert broken(client) == []


def test_broken_rules_are_seen(server):
    """Each rule of the list above fails when the state is made to break it."""
    with server.client() as client:
        one = Catalog(client)
        one.put_plan(GOLD)
        key = one.create_key(plans=["gold"])
        assert broken(client) == []
        client.srem("{ratelimit}:plan:gold:keys", key.id)
        client.zadd("{ratelimit}:keys", {"nobody": 1})
        client.set("ratelimit:digest:none", key.id)
        client.hset(f"ratelimit:{{{key.id}}}", "r", "epoch--10000000001stamp--1")
        client.hdel("{ratelimit}:catalog", "plan:gold")
        assert len(broken(client)) == 6
