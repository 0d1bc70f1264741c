"""The protocol of administration over slots, explored; and bugs in it, each of which the exploration finds.

`cluster_protocol` says what is modelled. `PYTHONPATH=tests python -m properties.cluster_protocol` explores more, and
prints traces.
"""

import pytest
from properties.cluster_protocol import bugs
from properties.cluster_protocol.configurations import WORLDS, Configuration, everything
from properties.cluster_protocol.gateway import ADMITTED, DISABLED, NO_PLAN, UNKNOWN
from properties.cluster_protocol.operations import BUSY, DONE, REFUSED
from properties.cluster_protocol.search import Found, Search

CHECKED = (
    "move to q / q opens s too",
    "rotate to b / create with b in q",
    "disable / rotate to b",
    "delete / create with a in p",
    "leave p / import a into q",
)
"""Pairs in the world of one key that are explored with a gateway beside them."""

SEEDED = bugs.RULES | bugs.FURTHER | bugs.TRACES


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("is_reversed", [False, True], ids=["in order", "reversed"])
def test_two_administrators_and_a_repairer(is_reversed):
    """No pair of operations breaks anything, wherever each of the three pauses; no guard is forgotten below."""
    guards, states = set(), 0
    for world, pair in everything():
        search = Search(Configuration(world, pair, checks=0, is_reversed=is_reversed))
        states += search.run().states
        guards |= search.guards()
    assert states > 1_000_000
    assert guards == {*bugs.GUARDS, *bugs.REDUNDANT}
    assert not bugs.GUARDS.keys() & bugs.REDUNDANT.keys()


@pytest.mark.slow
@pytest.mark.parametrize("pair", CHECKED)
def test_a_gateway_beside_them(pair):
    """A check is admitted by what holds, and who lives throughout is not denied, also by a cached record."""
    assert Search(Configuration("one key", pair, checks=2)).run().states > 1000


def test_a_few_of_them_early():
    """What `make test` explores of it. Every answer of a check is met, and every end of an operation."""
    outcomes = set()
    for pair in ("leave p / disable", "join q / q opens s too", "rotate to b / create with b in q"):
        search = Search(Configuration("one key", pair))
        search.run()
        outcomes |= search.outcomes
    assert outcomes == {ADMITTED, UNKNOWN, DISABLED, NO_PLAN, DONE, REFUSED, BUSY}


@pytest.mark.parametrize("name", SEEDED)
def test_a_rule_that_is_broken_is_noticed(name):
    """Each rule, and each step away from a simpler protocol, is needed for what its bug breaks."""
    seeded = SEEDED[name]
    with pytest.raises(Found) as found:
        seeded.search().run()
    assert found.value.violation.invariant is seeded.broken
    assert found.value.trace


def test_every_rule_has_a_bug():
    """R1 to R8, and the seven traces of simpler protocols."""
    assert {name.partition(",")[0] for name in bugs.RULES} == {f"R{number}" for number in range(1, 9)}
    assert len(bugs.TRACES) == 7
    assert {pair for _, pair in everything()} >= set(CHECKED)
    assert {seeded.world for seeded in SEEDED.values()} <= set(WORLDS)


@pytest.mark.parametrize(("step", "guard"), bugs.GUARDS)
def test_a_guard_that_is_left_out_is_noticed(step, guard):
    """Each guard of the table that is not redundant."""
    world, pair = bugs.GUARDS[step, guard]
    with pytest.raises(Found):
        Search(Configuration(world, pair, checks=0), bugs.without_guard(step, guard)).run()


@pytest.mark.parametrize("step", bugs.OWN_CLAIMS)
def test_a_foreign_claim_that_is_removed_is_noticed(step):
    """What is removed of a dead key is its own."""
    world, pair = bugs.OWN_CLAIMS[step]
    with pytest.raises(Found):
        Search(Configuration(world, pair, checks=0), bugs.with_writes(step, bugs.whosever)).run()
