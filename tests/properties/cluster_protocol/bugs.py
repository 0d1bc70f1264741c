"""Bugs: the protocol with one rule broken, with a mistake of a simpler protocol, or with one guard left out.

A bug changes the operations of the table, never a copy of them: it changes requests before they are sent, leaves them
out (as if they had been carried out), or sits between an operation and the slots and sends others.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from properties.cluster_protocol import invariants
from properties.cluster_protocol.configurations import WORLDS, Configuration
from properties.cluster_protocol.search import PROGRAMS, Bug, Search
from properties.cluster_protocol.state import Reply, live, name_of, new_stamp, read


class Seeded(NamedTuple):
    """A bug.

    Attributes:
        about: What is done otherwise.
        bug: The mutation.
        world, operations, checks: A configuration in which it shows.
        broken: The invariant that it breaks.
    """

    about: str
    bug: Bug
    world: str
    operations: str
    broken: Callable[..., bool]
    checks: int = 0

    def search(self):
        """The search for the shortest way to what the bug breaks."""
        return Search(Configuration(self.world, self.operations, self.checks), self.bug, only=self.broken)


def leave_out(*steps):
    """Steps that are not sent, though their operation goes on."""
    return Bug(change=lambda request: None if request.step in steps else request)


def without_guard(step, name):
    """A guard that is left out."""

    def change(request):
        return request._replace(guards=tuple(guard for guard in request.guards if name_of(guard[0]) != name))

    return changed(step, change)


def changed(step, change):
    """A step whose request is another one."""
    return Bug(change=lambda request: change(request) if request.step == step else request)


def with_writes(step, *writes_of):
    """A step whose writes are changed, each by a function: None leaves it out."""

    def change(request):
        writes = request.writes
        for each in writes_of:
            writes = tuple(write for write in map(each, writes) if write is not None)
        return request._replace(writes=writes)

    return changed(step, change)


def without_write(verb, name):
    """The write of a field that is left out."""
    return lambda write: None if write[0] == verb and name in write[1] else write


def whosever(write):
    """A claim is removed though it names another key."""
    verb, field, operand = write
    return ("put", field, None) if verb == "drop" else (verb, field, operand)


def between(*names):
    """Something between operations and the slots: a generator that is given each request, and returns a reply.

    It has a memory, empty when the operation begins; what that has as "last" is sent at the end.
    """

    def decorate(carry_out):
        def replaced(operation, me, *arguments):
            running, memory, reply = operation(me, *arguments), {}, None
            while True:
                try:
                    request = running.send(reply)
                except StopIteration as end:
                    if "last" in memory:
                        yield memory["last"]
                    return end.value
                reply = yield from carry_out(request, memory)

        return Bug(operations={name: partial(replaced, PROGRAMS[name]) for name in names})

    return decorate


# Against the rules.


@between("change plans")
def record_before_sets(request, memory):
    """Step 3 is sent before step 2."""
    if request.step == "plans 2":
        memory["step 2"] = request
        return Reply(done=True)
    reply = yield request
    if request.step == "plans 3" and reply.done:
        yield memory["step 2"]
    return reply


def keeps_the_version(request):
    """`r` keeps the version under which the key was last charged."""
    writes = (
        new_stamp(field[1], operand.stamp) if verb == "raise" else (verb, field, operand)
        for verb, field, operand in request.writes
    )
    return request._replace(writes=tuple(writes))


@between("repair")
def draft_last(request, memory):
    """Repair of a draft: D and C first, then K."""
    if request.step == "repair draft K":
        memory["last"] = request
        return Reply(done=True)
    return (yield request)


def forgets_what_was_touched(request):
    """Who replaces an intent writes only the plans that it changes itself."""
    (_, there), *_ = request.guards
    (verb, field, own), *others = request.writes
    if there is None:
        return request
    added = {field[2] for verb, field, _ in others if verb == "add"}
    touched = frozenset(added) if added else own.touched - there.touched
    return request._replace(writes=((verb, field, own._replace(touched=touched)), *others))


@between("rotate")
def claims_first(request, memory):
    """Step 2 is left out: D names the key before the record names the digest."""
    if request.step == "rotate 2":
        memory["before"] = request.guards
        return Reply(done=True)
    return (yield request._replace(guards=memory["before"]) if request.step == "rotate 4" else request)


@between("create")
def an_id_comes_back(request, memory):
    """The id of a deleted key is taken again."""
    if request.step == "create 2":
        ((field, _),) = request.guards
        (before,) = (yield read("create 1 K", field)).values
        if before is not None and before.state == "tombstone":
            request = request._replace(guards=((field, before),))
    return (yield request)


# What went wrong in simpler protocols.


def one_intent_for_all(request):
    """Whoever finds an intent leaves it as it is: it is removed by the own token of its first owner."""
    (_, there), *_ = request.guards
    return request if there is None else request._replace(writes=request.writes[1:])


def no_draft(request):
    """The record is absent until it is live."""
    match request.step:
        case "create 2":
            return None
        case "create 5":
            ((field, _),) = request.guards
            return request._replace(guards=((field, None),))
    return request


@between("repair")
def takes_claims_first(request, memory):
    """Repair of a live key: D first, then K and C."""
    if request.step == "repair live K":
        memory["last"] = request
        return Reply(done=True)
    if request.step == "repair live C":
        yield memory.pop("last")
    return (yield request)


@between("create", "rotate")
def claims_are_for_ever(request, memory):
    """No dead claim is replaced: whoever finds one does as if it were in use."""
    reply = yield request
    if request.step in {"create 1 K'", "rotate 1 K'"}:
        digest = memory["digest"]
        in_use = live(frozenset(), digest, ("somebody", 0))
        return Reply(done=True, values=(in_use,))
    if request.step in {"create 1 D", "rotate 1 D"}:
        memory["digest"] = request.reads[0][1]
    return reply


@between("repair")
def an_absent_id_is_dead(request, memory):
    """Repair does not ask whether it met the id anywhere before it found no record."""
    reply = yield request
    if request.step == "repair 1 C":
        there, _, *memberships = reply.values
        return Reply(done=True, values=(there, True, *memberships))
    return reply


def without_tombstone(write):
    """The record of a deleted key is removed."""
    verb, field, _ = write
    return verb, field, None


def forgets_its_digest(request):
    """A tombstone names no digest."""
    if request.step == "delete 3 D":
        return None
    if request.step != "delete 2":
        return request
    (verb, field, tombstone), *others = request.writes
    return request._replace(writes=((verb, field, tombstone._replace(digests=())), *others))


@between("check")
def does_not_look_at_r(request, memory):
    """The version beside a fresh record is not compared with the snapshot's."""
    reply = yield request
    if request.step == "check 1 r" and reply.values[0] is not None:
        return Reply(done=True, values=(reply.values[0]._replace(version=0),))
    return reply


def all_of(*bugs):
    """Several mutations as one bug."""

    def change(request):
        for bug in bugs:
            request = None if request is None else bug.change(request)
        return request

    return Bug({name: operation for bug in bugs for name, operation in bug.operations.items()}, change)


ONE, FREE, BOTH, TWO, NONE = WORLDS

RULES = {
    "R1": Seeded(
        "a join writes the record before the sets",
        record_before_sets, ONE, "join q / disable", invariants.sets_and_list_cover_the_records,
    ),
    "R2, the stamp": Seeded(
        "disabling leaves the stamp in `r`",
        with_writes("disable 2", without_write("stamp", "r")),
        ONE, "disable / join q", invariants.a_check_is_admitted_by_what_holds, 2,
    ),
    "R2, the version": Seeded(
        "a join does not raise the version in `r`",
        changed("plans 3", keeps_the_version),
        FREE, "join p / q opens t / join q", invariants.a_key_has_one_plan_per_stage,
    ),
    "R3": Seeded(
        "repair of a draft mends D and C before it writes at K",
        draft_last, NONE, "create with a in p / q opens s too", invariants.the_index_names_what_a_value_opens,
    ),
    "R4": Seeded(
        "who replaces an intent forgets what was touched",
        changed("plans 2", forgets_what_was_touched), ONE, "join q / leave p", invariants.all_is_in_agreement,
    ),
    "R5": Seeded(
        "a rotation claims the value before its record names it",
        claims_first, ONE, "rotate to b / create with b in q", invariants.a_value_opens_one_key_only,
    ),
    "R6, ended": Seeded(
        "an ended claim is taken without a step at its key",
        leave_out("create 1 K' ended"),
        ONE, "rotate to b / create with b in q", invariants.a_value_opens_one_key_only,
    ),
    "R6, dead": Seeded(
        "no dead claim is replaced",
        claims_are_for_ever, ONE, "rotate to b / disable", invariants.every_operation_works_alone,
    ),
    "R7": Seeded(
        "the id of a deleted key is taken again",
        an_id_comes_back, ONE, "delete / create k1 again", invariants.sets_and_list_cover_the_records,
    ),
    "R8": Seeded(
        "a tombstone keeps the hash",
        with_writes("delete 2", without_write("put", "r")),
        ONE, "delete / disable", invariants.a_check_is_admitted_by_what_holds, 2,
    ),
}  # fmt: skip
"""One against each rule at least."""

FURTHER = {
    "an absent id is taken for a dead one": Seeded(
        "repair of an id that was met neither in C nor in D",
        an_absent_id_is_dead, NONE, "create with a in p / q opens s too", invariants.sets_and_list_cover_the_records,
    ),
}  # fmt: skip
"""What the page leaves open: "absent" means dead only of an id that C or D named before K was read."""

TRACES = {
    "join, pause, repair, plan change, late step: two plans of one stage": Seeded(
        "repair does not write at K", leave_out("repair live K"),
        ONE, "join q / q opens s too", invariants.a_key_has_one_plan_per_stage,
    ),
    "leave, pause, another joins, late SREM: plan deleted under a key": Seeded(
        "an intent stays when another begins, and who finishes is guarded by the own one alone",
        changed("plans 2", one_intent_for_all),
        ONE, "leave p / join p / delete plan p", invariants.every_plan_of_a_key_exists,
    ),
    "'record absent' cannot be fenced: hence drafts": Seeded(
        "nothing is at K until the key is live", Bug(change=no_draft),
        NONE, "create with a in p / q opens s too", invariants.the_index_names_what_a_value_opens,
    ),
    "repair takes a live rotation's claim": Seeded(
        "repair of a live key goes to D before K", takes_claims_first,
        ONE, "rotate to b / disable", invariants.the_index_names_what_a_value_opens,
    ),
    "delete forgets its digest: value taken for ever": Seeded(
        "a tombstone names no digest, and no claim is replaced",
        all_of(Bug(change=forgets_its_digest), claims_are_for_ever),
        ONE, "delete / disable", invariants.every_operation_works_alone,
    ),
    "without a tombstone a deleted key is 'lost'": Seeded(
        "the record is removed", with_writes("delete 2", without_tombstone),
        ONE, "delete / disable", invariants.nothing_is_called_lost, 1,
    ),
    "a gateway with an old snapshot says no_plan_for_stage": Seeded(
        "the version in `r` is not compared before a denial", does_not_look_at_r,
        ONE, "move to q / q opens s too", invariants.who_lives_throughout_is_not_denied, 1,
    ),
}  # fmt: skip
"""What went wrong in simpler protocols, as the page has it."""

GUARDS = {
    ("create 1 K' ended", "record"): (ONE, "rotate to b / create with b in q"),
    ("create 3", "version"): (ONE, "create with b in q / delete plan q"),
    ("create 4", "D"): (ONE, "rotate to b / create with b in q"),
    ("create 5", "record"): (NONE, "create with a in p / create with a in q"),
    ("create 6", "intent"): (NONE, "create with a in p / import a into q"),
    ("plans 2", "intent"): (ONE, "join q / leave p"),
    ("plans 2", "version"): (ONE, "join q / q opens s too"),
    ("plans 3", "record"): (ONE, "join q / join q"),
    ("plans 4", "intent"): (ONE, "join q / leave p"),
    ("disable 2", "record"): (ONE, "join q / disable"),
    ("rotate 1 K' ended", "record"): (TWO, "k1 rotates to c / k2 rotates to c"),
    ("rotate 2", "record"): (ONE, "join q / rotate to b"),
    ("rotate 3", "D"): (ONE, "rotate to b / create with b in q"),
    ("rotate 4", "record"): (ONE, "join q / rotate to b"),
    ("rotate 5", "D"): (ONE, "rotate to b / rotate to c"),
    ("delete 2", "record"): (ONE, "join q / delete"),
    ("delete 3 C", "intent"): (ONE, "join q / delete"),
    ("delete 3 D", "D"): (ONE, "delete / create with a in p"),
    ("put plan 2", "version"): (BOTH, "p opens t too / q opens t"),
    ("put plan 2", "members"): (ONE, "join q / q opens s too"),
    ("delete plan 2", "members"): (ONE, "join q / delete plan q"),
    ("repair draft K", "record"): (ONE, "join q / create with b in q"),
    ("repair live C missing", "intent"): (ONE, "join q / leave p"),
    ("repair live K", "record"): (ONE, "join q / join q"),
    ("repair live D", "D"): (ONE, "join q / rotate to b"),
    ("repair live C", "intent"): (ONE, "join q / join q"),
}
"""Guards of the table, each with a configuration in which something breaks without it."""

REDUNDANT = {
    ("create 2", "record"): "ids never come back (R7), so nothing can be there",
    ("create 3", "intent"): "the same",
    ("delete plan 2", "version"): "what deletes a plan narrows; who adds a key counts `members`",
}
"""Guards of the table without which nothing broke in any configuration, and why."""

OWN_CLAIMS = {
    "repair dead D": (ONE, "delete / create with a in p"),
}
"""Steps that remove a claim with any token if it names their key, and a configuration in which that is needed."""
