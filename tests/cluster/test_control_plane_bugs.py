"""Bugs put into the steps of administrators in slots: each rule and guard broken, and noticed by what watches them."""

from itertools import product

import pytest
from helpers.administrators import VALUES, WORLDS, Administrator, BrokenError, Gateway, Site, administrator, repairer

from ratelimit import Conflict
from ratelimit.admin import keys as admin_keys
from ratelimit.admin import plans
from ratelimit.admin.by_slot import claims, keys, repair, steps
from ratelimit.admin.by_slot.intents import Intent
from ratelimit.admin.commit import Commit

pytestmark = pytest.mark.slow

MODULES = (steps, keys, repair, claims, plans)
MOST_REQUESTS = 40


@pytest.fixture
def slots(valkey_slots):
    return valkey_slots


def at_work(site, name):
    """Somebody who does something of `OPERATIONS`, or repairs all keys."""
    return repairer(site) if name == "repair" else administrator(site, name)


def explore(slots, world, first, *others, then=None):
    """The first pauses after each request while the others work; the second pauses, too, and goes on last.

    With `then` the first does not go on to its end, but makes so many requests more.
    """
    for pause, second_pause in product(range(MOST_REQUESTS), repeat=2):
        site = Site(slots, **WORLDS[world])
        one = at_work(site, first).steps(pause)
        paused = []
        for number, name in enumerate(others):
            other = at_work(site, name)
            if number == 0:
                paused.append(other.steps(second_pause))
            else:
                other.run()
        check(site)
        one_is_done = one.is_done
        one.steps(MOST_REQUESTS if then is None else then)
        check(site)
        is_last = not paused or paused[0].is_done
        for each in paused:
            each.run()
        site.repair_all()
        works_alone(site)
        site.close()
        if one_is_done and is_last:
            return


def check(site):
    """A gateway checks the value, alone."""
    gateway = Gateway(site)
    while gateway.step():
        pass


def works_alone(site):
    """Any value that opens nothing can be given to a key, and no other; nobody's mistake is in the way."""
    opened = {digest for _, _, digests in site.before.meaning().values() for digest in digests}
    for name, value in VALUES.items():
        creation = Administrator(site, "create", site.keys.create_key("", value))
        creation.is_watched = False
        creation.run()
        if (creation.error is None) == (site.digests[name] in opened):
            raise BrokenError(f"a value that opens nothing is free: {name}: {creation.error}")


def patch_step(monkeypatch, name, replacement):
    """Replace a step wherever it is used, by other steps too."""
    for module in MODULES:
        if hasattr(module, name):
            monkeypatch.setattr(module, name, replacement)


def without_commands(step, is_left_out):
    """A step without some of its commands."""

    def made(*arguments, **keywords):
        commit = step(*arguments, **keywords)
        commit._commands = [command for command in commit._commands if not is_left_out(command)]
        return commit

    return made


def without_guard(step, key, field):
    """A step without a guard: of the key whose name holds `key`, and of a field, None for any."""

    def made(*arguments, **keywords):
        commit = step(*arguments, **keywords)
        names = {index: name for name, index in commit._keys.items()}
        commit._conditions = [
            condition
            for condition in commit._conditions
            if key not in names[condition[0]] or field not in {None, condition[1]}
        ]
        return commit

    return made


def nothing(*_, **__):
    """A step that does nothing."""
    commit = Commit()
    commit.add("EXISTS", "{ratelimit}:catalog")
    return commit


def record_before_sets(patch):
    """R1: a join writes the record, and the sets when it is settled."""
    original = steps.announce

    def announce(namespace, snapshot, key_id, before, intent, joined=(), **options):
        return original(namespace, snapshot, key_id, before, intent, (), **options)

    patch_step(patch, "announce", announce)


def no_stamp(patch):
    """R2: `r` keeps its stamp."""
    patch_step(patch, "write_record", without_commands(steps.write_record, lambda command: command[0] == "STAMP"))


def no_version(patch):
    """R2: what adds a plan does not raise the version."""
    original = steps.write_record

    def write_record(namespace, before, record, token, *, joins=False, **options):
        return original(namespace, before, record, token, joins=False, **options)

    patch_step(patch, "write_record", write_record)


def draft_last(patch):
    """R3: repair of a draft mends D and C before it writes at K."""

    def repair_dead(namespace, key_id, stored, entries):
        if stored is None or stored.record.state != "draft":
            return (yield from original(namespace, key_id, stored, entries))
        tombstone = steps.tombstone_of(stored.record)
        yield from repair.remove_references(namespace, key_id, tombstone, entries.plans)
        yield from repair.carry_out(steps.write_tombstone(namespace, stored.text, tombstone))
        return repair.RepairReport(key_id, "draft", is_changed=True)

    original = repair._repair_dead
    patch.setattr(repair, "_repair_dead", repair_dead)


class ForgetfulIntent(Intent):
    @classmethod
    def from_json(cls, text):
        return super().from_json(text)._replace(touched=frozenset())


def forgets_what_was_touched(patch):
    """R4: who replaces an intent writes only the plans that it changes itself."""
    patch.setattr(keys, "Intent", ForgetfulIntent)


def claims_first(patch):
    """R5: a rotation claims the value before its record names it."""

    def name(self):
        self._token = yield from self._stored.version_token(self._namespace)
        self.named = self._stored.record
        return True

    patch.setattr(keys._Rotation, "name", name)


def ended_claims_are_taken(patch):
    """R6: an ended claim is taken without a step at its key."""

    def take_out(*_):
        yield from ()

    patch.setattr(claims, "_take_out", take_out)


def dead_claims_are_for_ever(patch):
    """R6: no dead claim is replaced."""

    def take_out(*_):
        yield from ()
        raise Conflict("a key with this value exists already", field="value")

    patch.setattr(claims, "_take_out", take_out)


def ids_come_back(patch):
    """R7: the id of a key is taken again."""
    ids = []
    real = admin_keys.generated_id

    def generated_id():
        ids.append(ids[-1] if ids else real())
        return ids[-1]

    def new_site(self, *arguments, **options):
        ids.clear()
        init(self, *arguments, **options)

    init = Site.__init__
    patch.setattr(Site, "__init__", new_site)
    patch.setattr(admin_keys, "generated_id", generated_id)
    patch_step(patch, "place_draft", without_guard(steps.place_draft, "record", None))


def tombstones_keep_the_hash(patch):
    """R8: the hash of a deleted key stays."""
    patch_step(
        patch, "write_tombstone", without_commands(steps.write_tombstone, lambda command: command[0] == "UNLINK")
    )


def drafts_are_enabled(patch):
    """R8: a draft opens what it names."""

    def draft_of(record):
        return steps.renewed(record, state="draft")

    patch.setattr(keys, "draft_of", draft_of)


def repair_has_no_fence(patch):
    """Join, pause, repair, plan change, late step: two plans of one stage."""
    patch.setattr(repair, "write_record", nothing)


def one_intent_for_all(patch):
    """Leave, pause, another joins, late SREM: plan deleted under a key."""
    original = steps.announce

    def announce(namespace, snapshot, key_id, before, intent, joined=(), **options):
        commit = original(namespace, snapshot, key_id, before, intent, joined, **options)
        if before is not None:
            commit._commands = [command for command in commit._commands if command[0] != "HSET"]
        return commit

    patch_step(patch, "announce", announce)


def repair_takes_claims_first(patch):
    """Repair takes a live rotation's claim."""

    def repair_live(namespace, stored, entries):
        ended = [digest for digest, until in stored.record.digests.items() if until]
        found = yield from repair.stored_claims(namespace, ended)
        for digest, claim in zip(ended, found, strict=True):
            if claim is not None and repair.claimed_by(claim) == stored.record.id:
                yield from repair.carry_out(steps.release(namespace, digest, claim))
        return (yield from original(namespace, stored, entries))

    original = repair._repair_live
    patch.setattr(repair, "_repair_live", repair_live)


def deleted_keys_have_no_tombstone(patch):
    """Without a tombstone a deleted key is "lost" (503)."""
    original = steps.write_tombstone

    def write_tombstone(namespace, before, tombstone):
        commit = original(namespace, before, tombstone)
        commit._commands = [("UNLINK", command[1]) if command[0] == "SET" else command for command in commit._commands]
        return commit

    patch_step(patch, "write_tombstone", write_tombstone)


def absent_ids_are_dead(patch):
    """Repair does not ask whether it met the id anywhere before it found no record."""
    patch.setattr(repair._Entries, "is_empty", False)


BUGS = {
    record_before_sets: ("one key", "join q", "disable"),
    no_stamp: ("one key", "disable", "join q"),
    no_version: ("two plans of one stage", "join p", "q opens t", "join q"),
    draft_last: ("no key", "create with a in p", "repair"),
    forgets_what_was_touched: ("one key", "join q", "leave p"),
    claims_first: ("one key", "rotate to b", "create with b in q"),
    ended_claims_are_taken: ("one key", "rotate to b", "create with b in q"),
    dead_claims_are_for_ever: ("one key", "rotate to b", "repair"),
    ids_come_back: ("one key", "delete", "create with b in q"),
    tombstones_keep_the_hash: ("one key", "delete", "disable"),
    drafts_are_enabled: ("no key", "create with a in p"),
    repair_has_no_fence: ("one key", "join q", "disable", "repair", "q opens s too"),
    one_intent_for_all: ("one key", "leave p", "join p", "delete plan p"),
    repair_takes_claims_first: ("one key", "rotate to b", "repair"),
    deleted_keys_have_no_tombstone: ("one key", "delete", "disable"),
}
"""Each with a world and what is done in it."""

GUARDS = {
    ("write_record", "record", None): ("one key", "join q", "join q"),
    ("go_live", "record", None): ("no key", "create with a in p", "repair"),
    ("list_draft", "catalog", "version"): ("one key", "create with b in q", "delete plan q"),
    ("claim", "digest", None): ("one key", "rotate to b", "create with b in q"),
    ("announce", "intents", None): ("one key", "join q", "leave p"),
    ("announce", "catalog", "version"): ("one key", "join q", "q opens s too"),
    ("settle", "intents", None): ("one key", "join q", "leave p"),
    ("release", "digest", None): ("one key", "rotate to b", "rotate to c"),
    ("write_tombstone", "record", None): ("one key", "join q", "delete"),
    ("forget", "intents", None): ("one key", "join q", "delete"),
}
"""Guards left out: the step, and of what; each with a world and what is done in it."""


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_is_noticed(bug, slots, monkeypatch):
    """Each rule that is broken, and each mistake of a simpler protocol."""
    bug(monkeypatch)
    with pytest.raises(BrokenError):
        explore(slots, *BUGS[bug], then=1 if bug is dead_claims_are_for_ever else None)


@pytest.mark.parametrize(("step", "key", "field"), GUARDS)
def test_a_guard_that_is_left_out_is_noticed(step, key, field, slots, monkeypatch):
    """Those of the steps."""
    patch_step(monkeypatch, step, without_guard(getattr(steps, step), key, field))
    with pytest.raises(BrokenError):
        explore(slots, *GUARDS[step, key, field], then=1 if step == "forget" else None)


@pytest.mark.slow
@pytest.mark.parametrize("explored", {*BUGS.values(), *GUARDS.values()})
def test_nothing_is_noticed_without_a_bug(explored, slots):
    """So it is the bugs that are found above."""
    explore(slots, *explored)
