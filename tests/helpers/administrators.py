"""Administrators, a repairer and a gateway on a server with slots, each of which can pause, or end, after any request.

What is watched is the real thing: after every script the whole of Redis is read, and the invariants of the protocol
(tests/properties/cluster_protocol) are held against it, and against who did what.
"""

import json
import time
from copy import copy
from dataclasses import dataclass, field

from ratelimit import Conflict, NotFound, Stage, StoreError, UsagePlan
from ratelimit.admin.by_slot.repair import repair_key
from ratelimit.admin.keys import KeyAdmin
from ratelimit.admin.plans import PlanAdmin
from ratelimit.effects import IndependentAtNode, IndependentCommands, IndependentReads, Primaries
from ratelimit.registry.namespace import Namespace
from ratelimit.scripts import ScriptCall
from ratelimit.store.blocking.executor import BlockingExecutor
from ratelimit.store.cluster.slots import slot_of, slot_of_command

VALUES = {name: f"my-own-key-value-000{name}" for name in "abc"}
STAGES = {"s": "api/s", "t": "api/t"}
CATALOG_SLOT = slot_of("{ratelimit}:catalog")
IN_PLACE = (IndependentAtNode, IndependentCommands, IndependentReads)
"""Requests in whose replies errors stand in place."""


class BrokenError(AssertionError):
    """An invariant does not hold."""


@dataclass
class Seen:
    """All that is in Redis.

    Attributes:
        records: By id, what stands in the place of a key's record.
        r: By id, version token and stamp.
        claims: By digest, the text of the claim.
        plans: By plan, its stages.
    """

    records: dict = field(default_factory=dict)
    r: dict = field(default_factory=dict)
    ttl: dict = field(default_factory=dict)
    claims: dict = field(default_factory=dict)
    plans: dict = field(default_factory=dict)
    sets: dict = field(default_factory=dict)
    listed: frozenset = frozenset()
    intents: dict = field(default_factory=dict)
    version: int = 0

    @classmethod
    def of(cls, client):
        """Read it. The client decodes."""
        names = sorted(client.keys("ratelimit:*"))
        fixed = ("{ratelimit}:catalog", "{ratelimit}:intents", "{ratelimit}:keys")
        records = [name for name in names if name.endswith(":record")]
        hashes = [name for name in names if name.endswith("}")]
        digests = [name for name in names if name.startswith("ratelimit:digest:")]
        with client.pipeline(transaction=False) as pipeline:
            pipeline.hgetall(fixed[0]).hgetall(fixed[1]).zrange(fixed[2], 0, -1)
            for plan in "pq":
                pipeline.smembers(f"{{ratelimit}}:plan:{plan}:keys")
            for name in (*records, *digests):
                pipeline.get(name)
            for name in hashes:
                pipeline.hget(name, "r")
            for name in records:
                pipeline.pttl(name)
            catalog, intents, listed, *replies = pipeline.execute()
        replies = iter(replies)
        seen = cls(listed=frozenset(listed), version=int(catalog.get("version", 0)))
        seen.intents = {key: json.loads(text) for key, text in intents.items()}
        seen.plans = {
            name[5:]: frozenset(json.loads(text)["stages"])
            for name, text in catalog.items()
            if name.startswith("plan:")
        }
        seen.sets = {plan: frozenset(next(replies)) for plan in "pq"}
        seen.records = {name.split("{")[1].split("}")[0]: json.loads(next(replies)) for name in records}
        seen.claims = {name.rpartition(":")[2]: next(replies) for name in digests}
        seen.r = {name.split("{")[1].split("}")[0]: next(replies) for name in hashes}
        seen.ttl = {key: next(replies) for key in seen.records}
        return seen

    def live(self):
        """The records of keys."""
        return {key: record for key, record in self.records.items() if "state" not in record}

    def meaning(self):
        """What the records promise: by id, enabled, plans and open digests."""
        return {
            key: (record["enabled"], frozenset(record["plans"]), open_digests(record))
            for key, record in self.live().items()
        }


def open_digests(record):
    return frozenset(each for each, until in record["digests"].items() if not until or until > time.time() * 1e6)


def versions_from(history, token):
    """The plans of every version that a check may go by."""
    return [plans for version, plans in history.items() if token is None or version >= int(token[8:18])]


def hold(invariant, value, *details):
    """Raise BrokenError if an invariant does not hold."""
    if not value:
        raise BrokenError(f"{invariant}: {' '.join(map(str, details))}")


def hold_in_state(seen, history):
    """The invariants of every state."""
    openers = {}
    for key, record in seen.live().items():
        for digest in open_digests(record):
            openers.setdefault(digest, []).append(key)
        token = seen.r.get(key)
        hold("a key has a hash, of its record's stamp", token is not None and token[18:] == record["stamp"], key)
        for plans in versions_from(history, token):
            hold("every plan of a key exists", set(record["plans"]) <= set(plans), key, plans)
            stages = [stage for plan in record["plans"] for stage in plans[plan]]
            hold("a key has one plan per stage", len(stages) == len(set(stages)), key, plans)
        hold("the list covers the records", key in seen.listed, key)
        hold("the sets cover the records", all(key in seen.sets[plan] for plan in record["plans"]), key)
    for plan, keys in seen.sets.items():
        for key in keys:
            touched = seen.intents.get(key, {"touched": ()})["touched"]
            named = seen.records.get(key, {"plans": ()})["plans"]
            hold("what a set has too much is known", plan in named or plan in touched, key, plan)
    for digest, keys in openers.items():
        hold("a value opens one key only", len(keys) == 1, digest, keys)
        named = (seen.claims.get(digest) or "").partition(":")[0]
        hold("the index names what a value opens", named == keys[0], digest, named)
    for key, record in seen.records.items():
        state = record.get("state")
        hold("what is no key is not enabled, and has no hash", not state or not record["enabled"], key)
        hold("what is no key is not enabled, and has no hash", not state or key not in seen.r, key)
        hold("a draft expires", state != "draft" or seen.ttl[key] > 0, key)


def hold_agreement(seen):
    """What holds after a repair of all keys."""
    live = seen.live()
    hold("no intent is left", not seen.intents, seen.intents)
    hold("no draft is left", all(record.get("state") != "draft" for record in seen.records.values()))
    hold("the list is that of the records", seen.listed == set(live), seen.listed, set(live))
    for plan, keys in seen.sets.items():
        named = {key for key, record in live.items() if plan in record["plans"]}
        hold("the sets are those of the records", keys == named, plan, keys, named)
    for key, record in live.items():
        hold("no ended digest is left", open_digests(record) == set(record["digests"]), key)
    for digest, claim in seen.claims.items():
        owner = seen.records.get(claim.partition(":")[0])
        dead = owner is None or owner.get("state") == "tombstone" or digest not in owner["digests"]
        hold("a claim opens or is dead", dead or digest in open_digests(owner), digest)
    for key, record in seen.records.items():
        hold("a tombstone expires", record.get("state") != "tombstone" or seen.ttl[key] > 0, key)


WORLDS = {
    "one key": {},
    "two plans of one stage": {"plans": (("p", "s"), ("q", "s")), "joined": ()},
    "a key in two plans": {"plans": (("p", "s"), ("q", "")), "joined": ("p", "q")},
    "no key": {"joined": None},
}
"""First states of a `Site`, as its keywords."""

FIRST = {}
"""By server and what is in it, the first states that were made: the id of the key, and everything dumped."""


class Site:
    """A server with slots, emptied and watched: plans p and q, and a key k1 in p, with value a.

    Args:
        server: The server.
        plans: The stages that each plan opens, a letter each.
        joined: The plans of the key; None for no key.
        peppers: Of administrators.
    """

    def __init__(self, server, plans=(("p", "s"), ("q", "t")), joined=("p",), pepper=None):
        self.client, self.admin, self.pepper = server.client(), server.admin, pepper
        self.executor = BlockingExecutor(self.client)
        self.history, self.before, self.gateways = {}, Seen(), []
        self.digests = {name: self.namespace.digest(value) for name, value in VALUES.items()}
        self.admin.flushall()
        first = str((server, plans, joined, pepper))
        if first not in FIRST:
            FIRST[first] = self._make(plans, joined), self._dump()
        self.k1, dump = FIRST[first]
        self.admin.flushall()
        with self.client.pipeline(transaction=False) as pipeline:
            for name, value in dump.items():
                pipeline.restore(name, 0, value)
            pipeline.execute()
        self.watch(None)

    def _make(self, plans, joined):
        """Make the first state; return the id of the key."""
        self.finish(self.plans.put_stage(Stage("api/s")))
        for plan, stages in plans:
            self.finish(self.plans.put_plan(plan_of(plan, stages)))
        return None if joined is None else self.finish(self.keys.create_key("", VALUES["a"], joined)).id

    def _dump(self):
        return {name: self.client.dump(name) for name in self.client.keys("*")}

    @property
    def namespace(self):
        """That of a process of its own."""
        made = Namespace("ratelimit", self.pepper, None)
        made.has_slots = True
        return made

    @property
    def keys(self):
        return KeyAdmin(self.namespace)

    @property
    def plans(self):
        return PlanAdmin(self.namespace)

    def finish(self, operation):
        """Run an operation, unwatched."""
        return run(self, operation)

    def watch(self, actor):
        """Hold the invariants of the state, and of the step that `actor` made; return whether it took effect."""
        seen = Seen.of(self.admin)
        self.history.setdefault(seen.version, seen.plans)
        hold("a version is one catalogue", self.history[seen.version] == seen.plans)
        hold_in_state(seen, self.history)
        before, self.before = self.before, seen
        for gateway in self.gateways:
            gateway.is_entitled = gateway.is_entitled and self.is_entitled(gateway.digest, gateway.stage)
        for key in before.r.keys() & seen.r.keys():
            hold("r never falls", seen.r[key][8:18] >= before.r[key][8:18], key)
        changed = before.meaning() != seen.meaning() or before.plans != seen.plans
        if actor is None or not changed:
            return False
        hold("who repairs changes no meaning", actor.change is not None, actor.name)
        meaning, plans = actor.change(self, before.meaning(), before.plans, seen)
        hold("a step makes its own change alone", (meaning, plans) == (seen.meaning(), seen.plans), actor.name)
        return True

    def is_entitled(self, digest, stage):
        """Whether the value opens an enabled key of which, by each version that may hold, a plan opens the stage."""
        return any(
            record["enabled"]
            and digest in open_digests(record)
            and all(
                any(stage in plans.get(plan, ()) for plan in record["plans"])
                for plans in versions_from(self.history, self.before.r.get(key))
            )
            for key, record in self.before.live().items()
        )

    def known_ids(self):
        """The ids of all keys that anything names, and of tombstones."""
        seen = self.before
        return sorted({*seen.records, *seen.listed, *seen.intents, *frozenset().union(*seen.sets.values())})

    def repair_all(self):
        """Repair all keys, alone; then everything is in agreement."""
        repairer(self).run()
        self.watch(None)
        hold_agreement(self.before)

    def close(self):
        self.client.close()


def plan_of(plan, stages):
    return UsagePlan(plan, stages=[STAGES[stage] for stage in stages])


def run(site, operation):
    """The result of an operation that runs alone."""
    actor = Administrator(site, "alone", operation)
    actor.is_watched = False
    return actor.run().result()


def one_request(request):
    return (yield request)


def is_script(command):
    return command[0] in {"EVAL", "EVALSHA"}


class Trip:
    """A request under way: one part for each slot, which nodes carry out in any order.

    Args:
        request: The request.
        is_reversed: Whether its last part is carried out first.
    """

    def __init__(self, request, *, is_reversed):
        self._request, self._replies = request, {}
        if isinstance(request, ScriptCall):
            parts = [[None]]
        else:
            by_slot = {}
            for at, command in enumerate(request):
                by_slot.setdefault(slot_of_command(command, CATALOG_SLOT), []).append(at)
            parts = list(by_slot.values())
        self._parts = parts[::-1] if is_reversed else parts

    @property
    def is_done(self):
        return not self._parts

    def carry_out_part(self, send, *, doubled, loses_reply):
        """Carry out the next part; return whether it has a script."""
        positions = self._parts.pop(0)
        has_script = positions == [None] or any(is_script(self._request[at]) for at in positions)
        part = self._request
        if positions != [None]:
            part = copy(self._request)
            part[:] = [self._request[at] for at in positions]
        for _ in range(1 + (doubled and has_script)):
            try:
                reply = send(part)
            except StoreError as error:
                reply = error
        reply = loses_reply or reply
        is_one = positions == [None] or isinstance(reply, StoreError)
        self._replies |= dict.fromkeys(positions, reply) if is_one else dict(zip(positions, reply, strict=True))
        return has_script

    def reply(self):
        """The reply to the request; an error is raised by who takes it, unless it stands in its place."""
        if None in self._replies:
            return self._replies[None]
        replies = [self._replies[at] for at in range(len(self._request))]
        errors = [reply for reply in replies if isinstance(reply, StoreError)]
        return errors[0] if errors and not isinstance(self._request, IN_PLACE) else replies


class Administrator:
    """An operation that is carried out part by part: what leaves together for several slots is a part for each.

    Args:
        site: Where.
        name: What it is called in a trace.
        operation: A generator of requests.
        change: Returns (meaning, plans) as they are after it took effect, of those before.
        doubled: Send each script twice, and take the second reply.
        is_reversed: Of what leaves together, carry out the last first.

    Attributes:
        trips: How many round trips there were.
        parts: How many requests these had, one for each slot.
        in_force_after: After how many trips it took effect; 0 if it did not.
    """

    is_watched = True
    is_lossy = False

    def __init__(self, site, name, operation, change=None, *, doubled=False, is_reversed=False):
        self.site, self.name, self.change, self.doubled, self.is_reversed = site, name, change, doubled, is_reversed
        self._operation, self._reply, self._trip = operation, None, None
        self.error, self.value, self.is_done, self.effects = None, None, False, 0
        self.trips = self.parts = self.in_force_after = 0

    def step(self, *, loses_reply=None):
        """Carry out one part; return whether there may be another. The reply is lost if an error is given."""
        if self.is_done:
            return False
        if self._trip is None and not self._resume():
            self._judge()
            return False
        self.parts += 1
        has_script = self._trip.carry_out_part(self._send, doubled=self.doubled, loses_reply=loses_reply)
        self.is_lossy = self.is_lossy or loses_reply is not None
        if self._trip.is_done:
            self._reply, self._trip = self._trip.reply(), None
        if has_script and self.is_watched and self.site.watch(self):
            self.effects += 1
            self.in_force_after = self.in_force_after or self.trips
        return True

    def _resume(self):
        """Go on to the next request; return False if there is none."""
        reply, self._reply = self._reply, None
        try:
            while True:
                go_on = self._operation.throw if isinstance(reply, StoreError) else self._operation.send
                request = go_on(reply)
                if isinstance(request, ScriptCall) or (request and not isinstance(request, Primaries)):
                    break
                reply = ("",) if isinstance(request, Primaries) else []  # nothing is sent
        except StopIteration as end:
            self.value, self.is_done = end.value, True
        except (Conflict, NotFound, StoreError) as error:
            self.error, self.is_done = error, True
        else:
            self._trip = Trip(request, is_reversed=self.is_reversed)
            self.trips += 1
        return not self.is_done

    def _send(self, request):
        return self.site.executor.run(one_request(request))

    def _judge(self):
        """What an operation says is true: done exactly if it took effect once, or what it wants was so already."""
        if self.is_watched and self.change is not None and not self.is_lossy:
            is_true = self.effects == (self.error is None) or (self.error is None and self.name in IDEMPOTENT)
            hold("an outcome is true", is_true, self.name, self.effects, self.error)

    def run(self):
        """Go on to the end."""
        while self.step():
            pass
        return self

    def steps(self, count):
        """Carry out so many requests, or all that there are."""
        for _ in range(count):
            if not self.step():
                break
        return self

    def kill(self):
        """End it where it is."""
        self.is_done = True
        self._operation.close()

    def result(self):
        """What it returned; raises what it raised."""
        if self.error is not None:
            raise self.error
        return self.value


class Gateway(Administrator):
    """Checks value a for stage s, as lua/PROTOCOL.md says: claim, record and `r`, then `r` again in the script."""

    def __init__(self, site):
        self.digest, self.stage = site.digests["a"], STAGES["s"]
        super().__init__(site, "gateway", self._check())
        self.is_entitled, self.admitted = site.is_entitled(self.digest, self.stage), None
        self._request = next(self._operation)
        site.gateways.append(self)

    def step(self):
        """Carry out one request, and go by its reply at once: the script at a key's slot judges by what it reads."""
        if self.is_done:
            return False
        try:
            self._request = self._operation.send(self._send(self._request))
        except StopIteration as end:
            self.value, self.is_done = end.value, True
            self._judge()
        return not self.is_done

    def kill(self):
        """End it where it is."""
        super().kill()
        self.site.gateways.remove(self)

    def _check(self):  # noqa: C901 - one path
        names, namespace = self.site.namespace.names, self.site.namespace
        snapshot = self.site.before  # as old as it may be
        version, plans = snapshot.version, snapshot.plans
        seen_absent = False
        while True:
            (claim,) = yield [("GET", names.digest(self.digest))]
            if claim is None:
                return "unknown"
            key = claim.decode().partition(":")[0]
            (stored,) = yield [("GET", names.key_record(key))]
            if stored is None:
                if seen_absent:
                    return "lost"
                seen_absent = True
                continue
            record = json.loads(stored)
            if "state" in record or self.digest not in open_digests(record):
                return "unknown"
            (r,) = yield [("HGET", names.key_hash(key), "r")]
            if r is None or r.decode()[18:] != record["stamp"]:
                continue
            if not record["enabled"]:
                return "disabled"
            if int(r[8:18]) > version:
                loaded = yield from namespace.load()
                version = loaded.version
                plans = {plan.id: {each.stage for each in plan.stages} for plan in loaded.plans.values()}
            plan = next((plan for plan in record["plans"] if self.stage in plans.get(plan, ())), None)
            if plan is None:
                return "no_plan"
            (r,) = yield [("HGET", names.key_hash(key), "r")]
            if r is not None and r.decode()[18:] == record["stamp"] and int(r[8:18]) <= version:
                self.admitted = key, plan, version
                return "admitted"

    def _judge(self):
        self.site.gateways.remove(self)
        hold("nothing is called lost", self.value != "lost")
        hold("who lives throughout is not denied", self.value == "admitted" or not self.is_entitled, self.value)
        if self.admitted is not None:
            key, plan, version = self.admitted
            record = self.site.before.live().get(key, {"enabled": False, "plans": (), "digests": {}})
            holds = record["enabled"] and self.digest in open_digests(record) and plan in record["plans"]
            hold("a check is admitted by what holds", holds and self.stage in self.site.history[version][plan], key)


# What administrators do: by name, (operation, change). A change that has no effect is none.


def with_key(key, change):
    """Change the meaning of one key."""

    def changed(site, meaning, plans, _):
        key_id = key(site)
        return meaning | {key_id: change(*meaning[key_id])}, plans

    return changed


def k1(site):
    return site.k1


def join(plan):
    return lambda site: site.keys.add_key_to_plan(site.k1, plan), with_key(k1, lambda e, p, d: (e, p | {plan}, d))


def leave(plan):
    return lambda site: site.keys.remove_key_from_plan(site.k1, plan), with_key(k1, lambda e, p, d: (e, p - {plan}, d))


def move(old, new):
    change = with_key(k1, lambda e, p, d: (e, p - {old} | {new}, d))
    return lambda site: site.keys.move_key(site.k1, old, new), change


def disable():
    return lambda site: site.keys.update_key(site.k1, enabled=False), with_key(k1, lambda _, p, d: (False, p, d))


def rotate(value):
    def change(site, meaning, plans, _):
        enabled, joined, _ = meaning[site.k1]
        return meaning | {site.k1: (enabled, joined, frozenset({site.digests[value]}))}, plans

    return lambda site: site.keys.rotate_key(site.k1, value=VALUES[value]), change


def delete():
    def change(site, meaning, plans, _):
        return {key: each for key, each in meaning.items() if key != site.k1}, plans

    return lambda site: site.keys.delete_key(site.k1), change


def create(value, plans):
    def change(site, meaning, before, seen):
        (made,) = seen.meaning().keys() - meaning.keys()
        return meaning | {made: (True, frozenset(plans), frozenset({site.digests[value]}))}, before

    return lambda site: site.keys.create_key("", VALUES[value], list(plans)), change


def put_plan(plan, stages):
    def change(_site, meaning, plans, _):
        return meaning, plans | {plan: frozenset(STAGES[stage] for stage in stages)}

    return lambda site: site.plans.put_plan(plan_of(plan, stages)), change


def delete_plan(plan):
    def change(_site, meaning, plans, _):
        return meaning, {name: stages for name, stages in plans.items() if name != plan}

    return lambda site: site.plans.delete_plan(plan), change


OPERATIONS = {
    "join q": join("q"),
    "join p": join("p"),
    "leave p": leave("p"),
    "move to q": move("p", "q"),
    "disable": disable(),
    "rotate to b": rotate("b"),
    "rotate to c": rotate("c"),
    "delete": delete(),
    "create with b in q": create("b", "q"),
    "create with a in p": create("a", "p"),
    "q opens s too": put_plan("q", "st"),
    "q opens t": put_plan("q", "t"),
    "p opens t instead": put_plan("p", "t"),
    "delete plan q": delete_plan("q"),
    "delete plan p": delete_plan("p"),
}
IDEMPOTENT = {"disable", "q opens s too", "q opens t", "p opens t instead"}
REFUSED = {"join p", "create with a in p", "delete plan p"}
"""Those that are refused in the first state."""


def administrator(site, name, **options):
    """Somebody who does one of these."""
    operation, change = OPERATIONS[name]
    return Administrator(site, name, operation(site), change, **options)


def repairer(site):
    """Somebody who repairs all keys that are known when he begins."""

    def repair_known():
        for key in site.known_ids():
            yield from repair_key(site.namespace, key)

    return Administrator(site, "repair", repair_known())
