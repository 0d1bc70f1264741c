"""The clock of deadlines in asyncio: it stands still while the event loop is too busy to run."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ratelimit.store.aio.loop_clock import PUNCTUAL_S, LoopClock


def test_a_timer_that_fires_late_stops_the_clock():
    """From when it was due to when it fired; what began before has waited so much less."""
    clock = LoopClock()
    assert clock.counted_s(100.0) == 100.0
    clock.on_timer(101.0, 104.0)
    assert clock.counted_s(105.0) - clock.counted_s(100.0) == 2.0
    assert clock.counted_s(105.0) - clock.counted_s(102.0) == 1.0  # it began while the clock stood still
    clock.on_timer(106.0, 107.0)
    assert clock.counted_s(108.0) - clock.counted_s(100.0) == 4.0
    assert clock.counted_s(108.0) - clock.counted_s(105.0) == 2.0


def test_a_timer_in_time_counts():
    """An idle loop is late by a millisecond or so: that is waiting for Redis."""
    clock = LoopClock()
    for second in range(1000):
        clock.on_timer(second, second + PUNCTUAL_S / 2)
    assert clock.counted_s(1000.0) == 1000.0


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=100), st.lists(st.floats(-1, 250), min_size=2))
def test_it_never_goes_back(stalls, times):
    """However many stalls there were, a later time is never counted as an earlier one, nor faster than it passes."""
    clock, now_s = LoopClock(), 0.0
    for wait_s, late_s in stalls:
        clock.on_timer(now_s + wait_s, now_s + wait_s + late_s)
        now_s += wait_s + late_s
    times.sort()
    for earlier, later in pairwise(times):
        passed = clock.counted_s(later) - clock.counted_s(earlier)
        assert -1e-9 <= passed <= later - earlier + 1e-9 or earlier < 0


def test_a_stall_that_makes_several_timers_late_counts_once():
    clock = LoopClock()
    clock.on_timer(1.0, 2.0)
    clock.on_timer(1.5, 2.0 + PUNCTUAL_S / 2)
    clock.on_timer(0.5, 2.0 + PUNCTUAL_S / 2)
    assert clock.counted_s(3.0) - clock.counted_s(0.0) == 2.0
