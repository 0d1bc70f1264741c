"""Whom of the Sentinels to believe, without a Sentinel: which is asked first, and what follows when two disagree."""

import pytest
from redis.exceptions import NoPermissionError, ResponseError

from ratelimit import StoreUnavailable
from ratelimit.store.sentinel import PrimaryTracker, Round, SentinelAnswerError, queries

OLD, NEW = ("10.0.0.1", 6379), ("10.0.0.2", 6379)
SENTINELS = ("s0:26379", "s1:26379", "s2:26379")


def says(address, epoch=1, others=2):
    """A Sentinel's replies."""
    state = [b"name", b"limits", b"config-epoch", b"%d" % epoch, b"num-other-sentinels", b"%d" % others]
    return [state, [address[0].encode(), b"%d" % address[1]]]


def a_round(tracker, answers):
    """Ask the Sentinels in order until the answer is clear, as `find` does; return the primary, and whom was asked."""
    search, heard = Round(tracker), []
    for each in tracker.order:
        heard.append(each)
        if each not in answers:
            search.fail(each, "connection refused")
        elif search.answer(each, answers[each]):
            break
    return search.conclude(), heard, search.is_moved


def a_whole_round(tracker, answers):
    """Ask all of them, as the watch does."""
    search = Round(tracker)
    for each in tracker.order:
        if each in answers:
            search.answer(each, answers[each])
        else:
            search.fail(each, "connection refused")
    return search.conclude(), search.is_moved


def tracker_of(address=OLD, epoch=1):
    tracker = PrimaryTracker("limits", SENTINELS)
    assert a_whole_round(tracker, dict.fromkeys(range(3), says(address, epoch))) == (address, False)
    return tracker


def test_what_is_asked():
    """The state before the address: should a failover come in between, the address is not the older one."""
    state, address = queries("limits")
    assert state == ("SENTINEL", "MASTER", "limits")
    assert address == ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "limits")


def test_the_one_that_answered_last_comes_first():
    """Those that gave no answer are asked after all others, until they answer again."""
    tracker = PrimaryTracker("limits", SENTINELS)
    assert a_round(tracker, {2: says(OLD)}) == (OLD, [0, 1, 2], False)
    assert a_round(tracker, {0: says(OLD), 2: says(OLD)}) == (OLD, [2], False)
    assert a_round(tracker, {0: says(OLD)}) == (OLD, [2, 0], False)
    assert tracker.order == (0, 2, 1)
    assert a_whole_round(tracker, {1: says(OLD), 2: says(OLD)}) == (OLD, False)
    assert tracker.order == (2, 1, 0)


def test_the_first_that_knows_of_the_last_failover_is_enough():
    """One that has not heard of it is passed over, though it answers first."""
    tracker = tracker_of()
    assert a_whole_round(tracker, {0: says(OLD), 1: says(NEW, 2), 2: says(NEW, 2)}) == (NEW, True)
    assert a_round(tracker, {0: says(OLD), 1: says(NEW, 2)}) == (NEW, [0, 1], False)


@pytest.mark.parametrize("first", [0, 1, 2])
def test_of_two_that_disagree_the_higher_epoch_wins(first):
    """Whichever is asked first, and however many have not heard of the failover."""
    tracker = tracker_of()
    tracker.order = (first, *({0, 1, 2} - {first}))
    assert a_whole_round(tracker, {0: says(OLD), 1: says(OLD), 2: says(NEW, 2)}) == (NEW, True)
    assert a_whole_round(tracker, {0: says(OLD), 1: says(OLD), 2: says(NEW, 2)}) == (NEW, False)


def test_a_minority_does_not_lead_back_to_a_deposed_primary():
    """It has been cut off, together with that primary."""
    tracker = tracker_of(NEW, 2)
    assert a_whole_round(tracker, {0: says(OLD)}) == (NEW, False)
    assert a_round(tracker, {0: says(OLD)}) == (NEW, [0, 1, 2], False)


def test_sentinels_that_were_set_up_anew_are_believed():
    """They begin with epoch 0; most of them say so, and nobody else will."""
    tracker = tracker_of(OLD, 7)
    assert a_whole_round(tracker, {0: says(NEW, 0), 1: says(NEW, 0)}) == (NEW, True)
    assert a_round(tracker, {0: says(NEW, 0)}) == (NEW, [0], False)


def test_a_tie_changes_nothing():
    """Of one epoch there is one primary; whoever names another one is not worth a move to and fro each second."""
    tracker = tracker_of()
    assert a_whole_round(tracker, {0: says(NEW), 1: says(OLD)}) == (OLD, False)


def test_a_user_who_may_not_read_the_state():
    """Is answered without an epoch, and led to the primary nevertheless."""
    tracker = PrimaryTracker("limits", SENTINELS)
    _, address = says(OLD)
    denied = NoPermissionError("this user has no permissions to run the 'sentinel|master' command")
    assert a_round(tracker, {0: [denied, address]}) == (OLD, [0], False)


def test_the_other_sentinels_that_one_must_see():
    """As redis-py's `min_other_sentinels` says; one that sees fewer is not believed."""
    tracker = PrimaryTracker("limits", SENTINELS, min_other_sentinels=1)
    search = Round(tracker)
    with pytest.raises(SentinelAnswerError, match="is in touch with 0 others, of at least 1"):
        search.answer(0, says(NEW, 2, others=0))
    search.answer(1, says(OLD, 1, others=1))
    assert search.conclude() == OLD


def test_a_host_that_stands_for_all():
    """As redis-py's `force_master_ip` says; a move is noticed all the same, by the port or by what is named."""
    tracker = PrimaryTracker("limits", SENTINELS, forced_host="localhost")
    assert a_whole_round(tracker, {0: says(OLD)}) == (("localhost", 6379), False)
    assert a_whole_round(tracker, {0: says(NEW, 2)}) == (("localhost", 6379), True)


@pytest.mark.parametrize(
    ("replies", "problem"),
    [
        ([ResponseError("No such master with that name"), None], "does not know the service"),
        ([[], [b"10.0.0.1"]], "answered with what is no address"),
        ([[], [b"10.0.0.1", b"port"]], "answered with what is no address"),
        ([[b"config-epoch", b"x"], [b"10.0.0.1", b"1"]], "answered with what is no address"),
        ([[], [None, b"1"]], "answered with what is no address"),
        ([[], 7], "answered with what is no address"),
        ([[], [b"\xff", b"1"]], "answered with what is no address"),
        ([ResponseError("unknown command"), ResponseError("unknown command `SENTINEL`")], "unknown command `SENTINEL`"),
    ],
)
def test_what_names_no_primary(replies, problem):
    """Is an error of that Sentinel, and never a move."""
    search = Round(tracker_of())
    with pytest.raises(SentinelAnswerError) as caught:
        search.answer(0, replies)
    assert str(caught.value) == problem
    search.answer(1, says(OLD))
    assert (search.conclude(), search.is_moved) == (OLD, False)


def test_nobody_names_a_primary():
    """One error, of the service, with what each Sentinel said; what was said before is kept for the next round."""
    tracker = tracker_of()
    search = Round(tracker)
    search.fail(1, "does not know the service")
    search.fail(0, "Connection refused")
    search.fail(2, "TimeoutError")
    with pytest.raises(StoreUnavailable) as caught:
        search.conclude()
    assert str(caught.value) == (
        "no Sentinel names a primary of the service 'limits' "
        "(s0:26379: Connection refused; s1:26379: does not know the service; s2:26379: TimeoutError)"
    )
    assert caught.value.cause == "not_sent"
    assert a_round(tracker, {0: says(OLD)}) == (OLD, [0], False)
