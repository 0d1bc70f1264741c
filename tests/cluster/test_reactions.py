"""The table of reactions, row by row."""

import pytest

from ratelimit.store.cluster.reactions import (
    FAIL,
    MAX_ATTEMPTS,
    NOT_SENT,
    TABLE,
    UNANSWERED,
    Reaction,
    pause_s,
    reaction_to,
)

NODE = ("10.0.0.1", 7000)
OTHER = ("10.0.0.3", 7002)

ANOTHER = Reaction(is_repeated=True, needs_another=True, refreshes=True)

ROWS = {
    "MOVED": Reaction(is_repeated=True, address=OTHER, is_moved=True, refreshes=True),
    "ASK": Reaction(is_repeated=True, address=OTHER, is_asking=True),
    "TRYAGAIN": Reaction(is_repeated=True),
    "CLUSTERDOWN": ANOTHER,
    "READONLY": ANOTHER,
    "MASTERDOWN": ANOTHER,
    "LOADING": ANOTHER,
    NOT_SENT: ANOTHER,
    UNANSWERED: Reaction(refreshes=True),
}


@pytest.mark.parametrize("code", TABLE)
def test_each_row(code):
    assert reaction_to(code, "3999 10.0.0.3:7002", NODE) == ROWS[code]


def test_what_was_sent_and_not_answered_is_never_repeated():
    assert not TABLE[UNANSWERED].is_repeated


@pytest.mark.parametrize("code", ["", "ERR", "NOPERM", "OOM", "MISCONF", "NOREPLICAS", "BUSY", "WRONGTYPE"])
def test_all_else_fails_as_with_one_server(code):
    assert reaction_to(code, "3999 10.0.0.3:7002", NODE) == FAIL


@pytest.mark.parametrize(
    ("message", "address"),
    [
        ("MOVED 3999 10.0.0.3:7002", OTHER),
        ("3999 ::1:7002", ("::1", 7002)),
        ("3999 node.example:7002", ("node.example", 7002)),
        ("3999 :7002", ("10.0.0.1", 7002)),
        ("3999 ?:7002", ("10.0.0.1", 7002)),
    ],
)
@pytest.mark.parametrize("code", ["MOVED", "ASK"])
def test_the_address_of_a_redirection(code, message, address):
    assert reaction_to(code, message, NODE).address == address


def test_a_redirection_to_nowhere_fails():
    assert reaction_to("MOVED", "3999", NODE) == Reaction(refreshes=True)


def test_a_command_that_nodes_redirect_to_and_fro_is_sent_with_pauses():
    """The first redirections are followed at once; what has to wait for a migration is repeated after a pause."""
    pauses = [pause_s(attempt, is_redirected=True) for attempt in range(1, MAX_ATTEMPTS)]
    assert pauses[:4] == [0, 0, 0.001, 0.002]
    assert max(pauses) == 0.05
    assert pause_s(1, is_redirected=False) == 0.001
    assert pause_s(40, is_redirected=False) == 0.05
