"""The steady load: the schedule does not wait for answers, and latency counts from when a request was due."""

import asyncio
import time

from benchmarks.suite import arrivals, tail


def test_the_schedule_is_the_same_each_time_and_as_dense_as_asked():
    """10 seconds of 1,000 a second: the same arrivals for the same seed, in order, within 4 sigma of 10,000."""
    due = tail.schedule(1000, 10, seed=1)
    assert due == tail.schedule(1000, 10, seed=1) != tail.schedule(1000, 10, seed=2)
    assert due == sorted(due)
    assert due[-1] < 10
    assert abs(len(due) - 10_000) < 400


def test_a_stall_is_felt_by_all_who_were_due_during_it():
    """The first of 100 requests holds up the loop for 200 ms, in which all others are due: none is left out.

    Counted from when each was sent, 99 of them would have taken no time at all.
    """
    stalled = False

    async def call(_caller):
        nonlocal stalled
        if not stalled:
            stalled = True
            time.sleep(0.2)  # noqa: ASYNC251 - on purpose
        return True

    due = [number * 0.001 for number in range(100)]
    recorded, unanswered = asyncio.run(tail.open_loop(call, ["one"], due))
    assert (recorded.get_total_count(), unanswered) == (100, 0)
    assert recorded.get_min_value() >= 99_000  # due at 99 ms, answered after 200 at the earliest
    assert recorded.get_value_at_percentile(50) >= 149_000


def test_who_gets_no_answer_is_counted_and_has_waited():
    """A request that ends without a decision is counted as unanswered, and its latency all the same."""

    async def call(_caller):
        raise tail.peers.UnansweredError

    recorded, unanswered = asyncio.run(tail.open_loop(call, ["one"], [0.0, 0.001]))
    assert (recorded.get_total_count(), unanswered) == (2, 2)


def test_processes_do_not_wait_with_the_clock():
    """The first of 100 requests of a process takes 200 ms, in which all others become due: they have waited as well."""
    stalled = False

    def call(_caller):
        nonlocal stalled
        if not stalled:
            stalled = True
            time.sleep(0.2)
        return True

    due = [number * 0.001 for number in range(100)]
    latencies, unanswered = tail.on_schedule(call, ["one"], time.monotonic(), due)
    assert (len(latencies), unanswered) == (100, 0)
    assert min(latencies) >= 0.101  # due at 99 ms, answered after 200 at the earliest
    assert sorted(latencies)[50] >= 0.149


def test_loads_are_shares_of_the_slowest_and_of_each_ones_own():
    """Everybody has the same load once, and a load of its own once."""
    loads = arrivals.loads({"quick": 4000.0, "slow": 1000.0})
    assert loads == {
        (arrivals.SAME, 0.5, "quick"): 500.0,
        (arrivals.SAME, 0.5, "slow"): 500.0,
        (arrivals.SAME, 0.8, "quick"): 800.0,
        (arrivals.SAME, 0.8, "slow"): 800.0,
        (arrivals.OWN, 0.5, "quick"): 2000.0,
        (arrivals.OWN, 0.5, "slow"): 500.0,
        (arrivals.OWN, 0.8, "quick"): 3200.0,
        (arrivals.OWN, 0.8, "slow"): 800.0,
    }


def test_each_round_has_all_loads_in_an_order_of_its_own():
    """Every load once a round, the same order for the same round, and not always the same one before a load."""
    loads = list(range(16))
    rounds = [arrivals.shuffled(loads, number) for number in range(10)]
    assert all(sorted(one) == loads for one in rounds)
    assert rounds[3] == arrivals.shuffled(loads, 3)
    assert len({one[one.index(5) - 1] for one in rounds}) > 4
