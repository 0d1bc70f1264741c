"""Commands on their way to nodes: what is done about their errors, and ASKING before them."""

from typing import NamedTuple

import pytest
from redis.exceptions import AskError, MovedError, TryAgainError

from ratelimit.errors import StoreTimeout, StoreUnavailable
from ratelimit.store.cluster.reactions import IF_ANOTHER_OWNS, REFRESH_AND_FAIL, REPEAT
from ratelimit.store.cluster.routing import (
    CommandGroup,
    RoutedCommand,
    end_redirections,
    failures_of,
    pause_before,
    reaction_to_error,
    with_asking,
    without_asking,
)

OTHER = ("10.0.0.3", 7002)


class Node(NamedTuple):
    """A node, as far as routing needs one."""

    address: tuple[str, int] = ("10.0.0.1", 7000)


def routed(reply, node=None):
    """A command that has been sent to a node, with what came of it."""
    command = RoutedCommand(3999, b"packet")
    command.node, command.reply = node or Node(), reply
    return command


def test_commands_that_failed_are_listed_with_what_is_done_then():
    """In their order; a reply is no failure, and what no node owns has failed for good."""
    without_owner = routed(StoreUnavailable("no node of the cluster owns slots"))
    without_owner.node = None
    moved, gone = routed(MovedError("3999 10.0.0.3:7002")), routed(StoreUnavailable("no connection"))
    failures = failures_of([routed(1), moved, without_owner, gone, routed(None)], None)
    assert [failure.command for failure in failures] == [moved, gone]
    assert (failures[0].reaction.address, failures[0].reaction.is_moved) == (OTHER, True)
    assert failures[1].reaction == IF_ANOTHER_OWNS


def test_what_was_sent_and_not_answered_is_not_repeated():
    assert reaction_to_error(StoreTimeout("no answer"), Node().address, None) == REFRESH_AND_FAIL


def test_the_address_of_a_redirection_is_mapped():
    """As are those of the topology; an error without an address has nothing to map."""
    to_localhost = {OTHER: ("localhost", 1)}.__getitem__
    assert reaction_to_error(AskError("3999 10.0.0.3:7002"), Node().address, to_localhost).address == ("localhost", 1)
    assert reaction_to_error(TryAgainError("later"), Node().address, to_localhost) == REPEAT


def test_the_longest_pause_of_commands_that_are_sent_together_counts():
    moved, later = routed(MovedError("3999 10.0.0.3:7002")), routed(TryAgainError("later"))
    assert pause_before(1, failures_of([moved], None)) == 0
    assert pause_before(1, failures_of([moved, later], None)) == 0.001
    assert pause_before(1, []) == 0


def test_nodes_that_redirect_to_each_other_are_the_error_of_a_command():
    """The redirection itself would tell its caller to use a client of a cluster. What else failed keeps its error."""
    moved, later = routed(MovedError("3999 10.0.0.3:7002")), routed(TryAgainError("later"))
    end_redirections(failures_of([moved, later], None))
    assert isinstance(moved.reply, StoreUnavailable)
    assert "redirect slot 3999 to each other" in str(moved.reply)
    assert moved.reply.cause == "refused"
    assert isinstance(later.reply, TryAgainError)


def test_asking_goes_before_the_commands_that_need_it():
    assert with_asking([("a", False), ("b", True), ("c", False)], "ASKING") == ["a", "ASKING", "b", "c"]


def test_commands_that_stay_together_have_one_error():
    """What is done about it is done for all; in the end it stands in its place."""
    group = CommandGroup(3999, [("GET", "key"), ("WAIT", 1, 0), ("GET", "key")])
    assert group.to_send() == [("GET", "key"), ("WAIT", 1, 0), ("GET", "key")]
    moved = MovedError("3999 10.0.0.3:7002")
    group.take([moved, 1, moved])
    assert group.reply is moved
    group.is_asking = True
    assert group.to_send() == [("ASKING",), ("GET", "key"), ("WAIT", 1, 0), ("GET", "key")]
    group.take([b"OK", b"a", moved, TryAgainError("later")])
    assert group.reply is moved
    group.reply = StoreUnavailable("to each other")
    assert [type(reply) for reply in group.replies()] == [bytes, StoreUnavailable, TryAgainError]
    group.take([b"OK", b"a", 1, None])
    assert (group.reply, group.replies()) == (None, [b"a", 1, None])


ERROR, REFUSED = ValueError("of the command"), ValueError("of ASKING")


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        ([1, b"OK", 2, 3], [1, 2, 3]),
        ([1, b"OK", ERROR, 3], [1, ERROR, 3]),
        ([1, REFUSED, 2, 3], [1, 2, 3]),  # the node owned the slot by then
        ([1, REFUSED, ERROR, 3], [1, REFUSED, 3]),  # or else the command would be redirected to and fro
    ],
)
def test_replies_to_asking_are_left_out(replies, expected):
    """Unless it failed, and the command behind it as well."""
    assert without_asking(replies, [False, True, False]) == expected
