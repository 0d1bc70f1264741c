"""The operations, step by step as in the table of the page: a generator each, every `yield` one atomic request.

Steps are named by operation and number; a step that is two requests on the page has the slot behind its number. Such
requests leave together, and arrive in either order. What an operation keeps between two steps is in its local variables
alone, so that it can pause for ever after any step: that is a crash. It ends with one of the outcomes below, or begins
anew: `Again` with other arguments, `Then` as another operation (which forgets what was read before).
"""

from typing import NamedTuple

from properties.cluster_protocol.state import (
    LIST,
    MEMBERS,
    PLANS,
    VERSION,
    Claim,
    Intent,
    R,
    Request,
    add,
    claim,
    draft,
    drop_own,
    forget,
    intent,
    is_live,
    live,
    may_hold,
    more,
    new_stamp,
    opens,
    plan_set,
    put,
    put_stages,
    r,
    raise_version,
    read,
    record,
    remove,
    with_digests,
)

DONE, REFUSED, BUSY, UNCHANGED = "done", "refused", "busy", "unchanged"
"""Outcomes: it took effect; it did not, and says so; others were faster too often; there was nothing to do."""


class Then(NamedTuple):
    """Go on as another operation."""

    operation: str
    arguments: tuple


class Again(NamedTuple):
    """Begin anew, with these arguments; after as many attempts as one has, end with this instead."""

    arguments: tuple
    at_last: str | Then = BUSY


def create(me, key, digest, plans):
    """Make a key with a value, in plans."""
    reads = read("create 1 C", VERSION, PLANS), read("create 1 D", claim(digest))
    (version, catalogue), (stale,) = values(*(yield from me.together(*reads)))
    if not may_hold(plans, catalogue):
        return REFUSED
    if not (yield from is_claimable(me, "create 1", digest, stale)):
        return REFUSED

    begun = draft(plans, digest, me.token())
    if not (yield Request("create 2", ((record(key), None),), (put(record(key), begun),))).done:
        return REFUSED  # the id is taken

    own = Intent(me.token(), plans, digest)
    sets = [add(plan_set(plan), key) for plan in sorted(plans)]
    writes = (add(LIST, key), *sets, put(intent(key), own), more(MEMBERS))
    if not (yield Request("create 3", ((VERSION, version), (intent(key), None)), writes)).done:
        # The draft is kept, and entered under the catalogue as it is now.
        version, catalogue = (yield read("create 1 C", VERSION, PLANS)).values
        guards = ((VERSION, version), (intent(key), None))
        if not may_hold(plans, catalogue) or not (yield Request("create 3", guards, writes)).done:
            return Then("repair", (key, REFUSED))

    mine = Claim(key, me.token())
    if not (yield Request("create 4", ((claim(digest), stale),), (put(claim(digest), mine),))).done:
        return Then("repair", (key, REFUSED))

    after = live(plans, digest, me.token())
    writes = (put(record(key), after), put(r(key), R(version, after.stamp)))
    effect = ("made", key, plans, digest)
    if not (yield Request("create 5", ((record(key), begun),), writes, effect=effect)).done:
        return Then("repair", (key, REFUSED))

    yield Request("create 6", ((intent(key), own),), (put(intent(key), None),))
    return DONE


def values(*replies):
    """What was read."""
    return [reply.values for reply in replies]


def is_claimable(me, step, digest, stale, own_key=None):
    """R6: whether a value may be claimed whose claim was read."""
    if stale is None:
        return True
    (owner,) = (yield read(f"{step} K'", record(stale.key))).values
    if owner is None or owner.state == "tombstone" or digest not in dict(owner.digests):
        return True
    if owner.state == "draft" or opens(owner, digest):
        return False  # being made, or in use
    if stale.key != own_key:  # named as ended: take it out of that record first
        others = {other: until for other, until in owner.digests if other != digest}
        without = with_digests(owner, others, me.token())
        writes = (put(record(stale.key), without), new_stamp(stale.key, without.stamp))
        if not (yield Request(f"{step} K' ended", ((record(stale.key), owner),), writes)).done:
            return False
    return True


def change_plans(me, key, joins, leaves, upsert=None, is_begun=False):
    """Join, leave, move; with `upsert` whatever brings the key into these plans alone."""
    refused = Then("repair", (key, REFUSED)) if is_begun else REFUSED
    reads = read("plans 1 C", VERSION, PLANS, intent(key)), read("plans 1 K", record(key))
    (version, catalogue, there), (before,) = values(*(yield from me.together(*reads)))
    if not is_live(before):
        return refused
    if upsert is not None:
        joins, leaves = upsert - before.plans, before.plans - upsert
        if not joins | leaves:
            return Then("repair", (key, UNCHANGED)) if is_begun else UNCHANGED
    plans = before.plans - leaves | joins
    if joins & before.plans or leaves - before.plans or (joins and not may_hold(plans, catalogue)):
        return refused

    touched = joins | leaves | (there.touched if there else frozenset())
    own = Intent(me.token(), touched, there.digest if there else None)
    guards, writes = ((intent(key), there),), (put(intent(key), own),)
    if joins:
        guards += ((VERSION, version),)
        writes += (*(add(plan_set(plan), key) for plan in sorted(joins)), more(MEMBERS))
    if not (yield Request("plans 2", guards, writes)).done:
        return Again((key, joins, leaves, upsert, is_begun))

    after = before._replace(plans=plans, stamp=me.token())
    stamp = raise_version(key, version, after.stamp) if joins else new_stamp(key, after.stamp)
    effect = ("plans", key, joins, leaves)
    if not (yield Request("plans 3", ((record(key), before),), (put(record(key), after), stamp), effect=effect)).done:
        return Again((key, joins, leaves, upsert, True))

    gone = [remove(plan_set(plan), key) for plan in sorted(touched - plans)]
    reads = (intent(key), *((plan_set(plan), key) for plan in sorted(plans)))
    reply = yield Request("plans 4", ((intent(key), own),), (*gone, put(intent(key), None)), reads)
    other, *has = reply.values
    if not reply.done and other is None and not all(has):
        return Then("repair", (key, DONE))
    return DONE


def disable(me, key):
    """Disable a key; enable, expiry and name are the same."""
    (before,) = (yield read("disable 1", record(key))).values
    if not is_live(before):
        return REFUSED
    after = before._replace(enabled=False, stamp=me.token())
    writes = (put(record(key), after), new_stamp(key, after.stamp))
    effect = ("disabled", key)
    if not (yield Request("disable 2", ((record(key), before),), writes, effect=effect)).done:
        return Again((key,))
    return DONE


def rotate(me, key, digest):
    """Give a key another value; the old one ends at once."""
    reads = read("rotate 1 K", record(key)), read("rotate 1 D", claim(digest))
    (before,), (stale,) = values(*(yield from me.together(*reads)))
    if not is_live(before) or not (yield from is_claimable(me, "rotate 1", digest, stale, key)):
        return REFUSED
    if opens(before, digest):
        return REFUSED

    marked = with_digests(before, dict(before.digests) | {digest: 1}, me.token())
    writes = (put(record(key), marked), new_stamp(key, marked.stamp))
    if not (yield Request("rotate 2", ((record(key), before),), writes)).done:
        return Again((key, digest))

    mine = Claim(key, me.token())
    old_digests = sorted(set(dict(before.digests)) - {digest})
    reads = [read("rotate 3 D", claim(old)) for old in old_digests]
    step = Request("rotate 3", ((claim(digest), stale),), (put(claim(digest), mine),))
    reply, *old_claims = yield from me.together(step, *reads)
    if not reply.done:
        return Again((key, digest))

    # What had ended before is dropped: its claim goes in step 5, or is dead.
    ended = {old: 1 for old, until in before.digests if not until}
    after = with_digests(marked, ended | {digest: 0}, me.token())
    writes = (put(record(key), after), new_stamp(key, after.stamp))
    effect = ("opened by", key, digest)
    if not (yield Request("rotate 4", ((record(key), marked),), writes, effect=effect)).done:
        return Again((key, digest))

    yield from me.together(*releases("rotate 5", key, old_digests, old_claims))
    return DONE


def releases(step, key, digests, claims):
    """Steps that remove a key's own claims, as they were read; `claims` are the replies."""
    for digest, (text,) in zip(digests, values(*claims), strict=True):
        if text is not None and text.key == key:
            yield Request(step, ((claim(digest), text),), (put(claim(digest), None),))


def delete(me, key):
    """Delete a key."""
    (before,) = (yield read("delete 1", record(key))).values
    if not is_live(before):
        return REFUSED
    tombstone = before._replace(state="tombstone", enabled=False, stamp=me.token())
    writes = (put(record(key), tombstone), put(r(key), None))
    step = Request("delete 2", ((record(key), before),), writes, effect=("deleted", key))
    digests = [digest for digest, _ in tombstone.digests]
    reads = [read("delete 2 D", claim(digest)) for digest in digests]
    reply, intent_reply, *claims = yield from me.together(step, read("delete 2 C", intent(key)), *reads)
    if not reply.done:
        return Again((key,))

    (there,) = intent_reply.values
    sets = [remove(plan_set(plan), key) for plan in sorted(tombstone.plans | (there.touched if there else frozenset()))]
    step = Request("delete 3 C", ((intent(key), there),), (remove(LIST, key), *sets, put(intent(key), None)))
    reply, *_ = yield from me.together(step, *releases("delete 3 D", key, digests, claims))
    return DONE if reply.done else Then("repair", (key, DONE))  # reads it again


def put_plan(me, plan, stages):
    """Have a plan open these stages, one letter each; make it if it does not exist."""
    sets = [plan_set(each) for each in me.plans]
    version, members, catalogue, *values = (yield read("put plan 1", VERSION, MEMBERS, PLANS, *sets)).values
    keys_of = dict(zip(me.plans, values, strict=True))
    gained = set(stages) - set(dict(catalogue).get(plan, ""))
    rivals = {other for other, opened in catalogue if other != plan and gained & set(opened)}
    for key in sorted(key for other in rivals for key in keys_of[plan] & keys_of[other]):
        (in_the_way,) = (yield read("put plan 1 K", record(key))).values
        if is_live(in_the_way) and plan in in_the_way.plans and rivals & in_the_way.plans:
            return REFUSED
        return Then("repair", (key, Then("put plan", (plan, stages))))
    guards, writes = ((VERSION, version), (MEMBERS, members)), (put_stages(plan, stages),)
    if not (yield Request("put plan 2", guards, writes, effect=("plan", plan, stages))).done:
        return Again((plan, stages))
    return DONE


def delete_plan(me, plan):
    """Delete a plan that no key is in."""
    version, members, catalogue, keys = (yield read("delete plan 1", VERSION, MEMBERS, PLANS, plan_set(plan))).values
    if plan not in dict(catalogue):
        return REFUSED
    for key in sorted(keys):
        (in_the_way,) = (yield read("delete plan 1 K", record(key))).values
        if is_live(in_the_way) and plan in in_the_way.plans:
            return REFUSED
        return Then("repair", (key, Then("delete plan", (plan,))))
    guards, writes = ((VERSION, version), (MEMBERS, members)), (put_stages(plan, None),)
    if not (yield Request("delete plan 2", guards, writes, effect=("plan", plan, None))).done:
        return Again((plan,))
    return DONE


def import_row(me, key, digest, plans):
    """A row of a file: the key that the value opens comes into these plans; without one, a key is made."""
    (stored,) = (yield read("import 1 D", claim(digest))).values
    if stored is not None:
        (owner,) = (yield read("import 1 K", record(stored.key))).values
        if opens(owner, digest):
            return Then("change plans", (stored.key, frozenset(), frozenset(), plans))
    return Then("create", (key, digest, plans))


def repair(me, key, result=DONE):
    """Finish or undo whatever was left half done of a key: by anyone, at any time."""
    memberships = [(plan_set(plan), key) for plan in me.plans]
    there, is_listed, *values = (yield read("repair 1 C", intent(key), (LIST, key), *memberships)).values
    is_member = dict(zip(me.plans, values, strict=True))
    (before,) = (yield read("repair 1 K", record(key))).values
    if is_live(before):
        return (yield from repair_live(me, key, result, there, is_listed, is_member, before))

    if before is None and there is None and not is_listed and not any(values):
        return result  # not yet made: an absent id is dead only if it was met in C (or D) before
    if before is not None and before.state == "draft":
        tombstone = before._replace(state="tombstone", stamp=me.token())
        if not (yield Request("repair draft K", ((record(key), before),), (put(record(key), tombstone),))).done:
            return Again((key, result), result)
    digests = set(dict(before.digests)) if before else set()
    digests |= {there.digest} if there and there.digest else set()
    steps = [Request("repair dead D", writes=(drop_own(digest, key),)) for digest in sorted(digests)]
    step = Request("repair dead C", writes=(forget(key, before.plans if before else frozenset()),))
    yield from me.together(*steps, step)
    return result


def repair_live(me, key, result, there, is_listed, is_member, before):
    """What repair does for a live key: first K, then D and C (R3)."""
    if not is_listed or not all(is_member[plan] for plan in before.plans):
        own = Intent(me.token(), before.plans | (there.touched if there else frozenset()))
        sets = [add(plan_set(plan), key) for plan in sorted(before.plans)]
        writes = (add(LIST, key), *sets, put(intent(key), own), more(MEMBERS))
        if not (yield Request("repair live C missing", ((intent(key), there),), writes)).done:
            return Again((key, result), result)
        there = own
    ended = [digest for digest, until in before.digests if until]
    if there is None and not ended:
        return result
    claims = yield from me.together(*(read("repair live D read", claim(digest)) for digest in ended))

    fenced = with_digests(before, {digest: 0 for digest, until in before.digests if not until}, me.token())
    writes = (put(record(key), fenced), new_stamp(key, fenced.stamp))
    if not (yield Request("repair live K", ((record(key), before),), writes)).done:
        return Again((key, result), result)
    steps = [*releases("repair live D", key, ended, claims)]
    if there is not None:
        gone = [remove(plan_set(plan), key) for plan in sorted(there.touched - before.plans)]
        steps.append(Request("repair live C", ((intent(key), there),), (*gone, put(intent(key), None))))
    yield from me.together(*steps)
    return result


def repair_of(*keys):
    """Repairs of keys, one after the other: operation and arguments."""
    first, *others = keys
    return Then("repair", (first, repair_of(*others) if others else DONE))


OPERATIONS = {
    "create": create,
    "change plans": change_plans,
    "disable": disable,
    "rotate": rotate,
    "delete": delete,
    "put plan": put_plan,
    "delete plan": delete_plan,
    "import row": import_row,
    "repair": repair,
}
