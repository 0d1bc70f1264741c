"""Changes of keys and plans where keys lie in slots: interrupted after each request, and carried out while others work.

`helpers.administrators` watches the real thing after every script. The model of the same protocol explores all
interleavings (tests/properties/cluster_protocol); here are its steps as they are, and what it leaves out: expiry, lost
and doubled replies, several peppers.
"""

import random

import pytest
from helpers.administrators import OPERATIONS, REFUSED, WORLDS, Administrator, Gateway, Site, administrator, repairer

from ratelimit.admin.by_slot.repair import repair_key
from ratelimit.scripts import load

MOST_REQUESTS = 60


def pauses(slots, name, *, is_reversed):
    """A site and an administrator for each request after which one can pause: after none, one, ... all of them."""
    for count in range(MOST_REQUESTS):
        site = Site(slots)
        paused = administrator(site, name, is_reversed=is_reversed).steps(count)
        yield site, paused
        site.close()
        if paused.is_done:
            return
    raise AssertionError(f"{name} does not end")


ORDERS = pytest.mark.parametrize("is_reversed", [False, True], ids=["in order", "reversed"])
"""In which order nodes carry out what leaves together."""

TRIPS = {
    "disable": (2, 3, 2),
    "join q": (4, 5, 3),
    "leave p": (4, 5, 3),
    "move to q": (4, 5, 3),
    "rotate to b": (5, 8, 4),
    "delete": (4, 8, 2),
    "create with b in q": (6, 7, 5),
    "q opens s too": (5, 5, 4),
}
"""Of each change: round trips, reads included; their requests, one for each slot; after which trip it is in force."""


@pytest.mark.parametrize("is_first", [True, False], ids=["first change", "later change"])
@pytest.mark.parametrize("name", TRIPS)
def test_round_trips(site, monkeypatch, name, is_first):
    """As many as lua/PROTOCOL.md says, for the first change of a process as for a later one."""
    site.admin.script_load(load("commit").source)
    if not is_first:
        namespace = site.namespace
        site.finish(namespace.load())
        monkeypatch.setattr(Site, "namespace", namespace)
    actor = administrator(site, name).run()
    assert (actor.trips, actor.parts, actor.in_force_after) == TRIPS[name]


@ORDERS
@pytest.mark.parametrize("name", OPERATIONS)
def test_killed_after_each_request(slots, name, is_reversed):
    """A repair finishes or undoes it; what it says is true, and the same again does what it should."""
    for site, killed in pauses(slots, name, is_reversed=is_reversed):
        killed.kill()
        site.repair_all()
        again = administrator(site, name).run()
        assert again.error is None or killed.effects or name in REFUSED, again.error
        site.repair_all()


@ORDERS
@pytest.mark.parametrize("name", OPERATIONS)
def test_the_next_run_needs_no_repair(slots, name, is_reversed):
    """Another administrator who does the same finds nothing that is in the way, but a value that is being given."""
    for site, killed in pauses(slots, name, is_reversed=is_reversed):
        killed.kill()
        again = administrator(site, name).run()
        is_being_made = name.startswith("create") and "being made" in str(again.error)
        assert again.error is None or killed.effects or is_being_made or name in REFUSED, again.error
        site.repair_all()


EARLY = {
    ("join q", "q opens s too"),
    ("join q", "leave p"),
    ("join q", "delete plan q"),
    ("leave p", "join p"),
    ("move to q", "q opens s too"),
    ("rotate to b", "create with b in q"),
    ("rotate to b", "rotate to c"),
    ("rotate to b", "disable"),
    ("delete", "create with a in p"),
    ("delete", "join q"),
    ("create with b in q", "delete plan q"),
    ("create with b in q", "rotate to b"),
    ("p opens t instead", "join q"),
    ("delete plan q", "create with b in q"),
}
"""Pairs that are tried by `make test`."""
PAIRS = [
    pytest.param(one, other, marks=[] if (one, other) in EARLY else pytest.mark.slow)
    for one in OPERATIONS
    for other in OPERATIONS
]


@pytest.mark.parametrize(("paused", "meanwhile"), PAIRS)
def test_paused_while_another_works(valkey_slots, paused, meanwhile):
    """And goes on later: with and without a repair of everything before or after the other's work."""
    for order, is_reversed in (("other", False), ("other", True), ("repair other", True), ("other repair", False)):
        for site, first in pauses(valkey_slots, paused, is_reversed=is_reversed):
            for work in order.split():
                if work == "repair":
                    repairer(site).run()
                else:
                    administrator(site, meanwhile).run()
            first.run()
            site.repair_all()


def some_history(slots, seed):
    """Three administrators, who do anything, gateways and repairers, one request of whom comes at a time."""
    chance = random.Random(seed)
    site = Site(slots, **WORLDS[chance.choice(["one key", "two plans of one stage", "a key in two plans"])])
    at_work = [
        administrator(site, chance.choice(list(OPERATIONS)), is_reversed=chance.random() < 0.5) for _ in range(3)
    ]
    later = chance.randrange(40)  # more come then
    for tick in range(1000):
        if not at_work:
            break
        if tick < later and chance.random() < 0.1:
            key = chance.choice(site.known_ids())
            repair = repair_key(site.namespace, key)
            at_work.append(Administrator(site, f"repair {key}", repair, is_reversed=chance.random() < 0.5))
        if tick < later and chance.random() < 0.1:
            at_work.append(Gateway(site))
        actor = chance.choice(at_work)
        if chance.random() < 0.01:
            actor.kill()
        if not actor.step():
            at_work.remove(actor)
    site.repair_all()
    site.close()


@pytest.mark.parametrize(
    "first", [0, *(pytest.param(first, marks=pytest.mark.slow) for first in range(100, 2000, 100))]
)
def test_all_at_once(valkey_slots, first):
    """Histories by chance, each of its own seed."""
    for seed in range(first, first + 100):
        try:
            some_history(valkey_slots, seed)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
