"""What a backend must bear, held against the exact model: never exceeded by whatever is sent, and reached.

Catalogues are small and random, the model is `ratelimit.engine.reference_model`. Two sides show that the maximum flow
is right. A slow search that knows each key and each bucket by itself finds the same number, and how much of which
request makes it up; sending just that through the model reaches it.
"""

from datetime import UTC, datetime
from random import Random

import pytest
from helpers.capacity_oracle import kinds, random_book, sent_at_most

from ratelimit.admin.capacity.report import capacity_of
from ratelimit.engine.limits import Bucket
from ratelimit.engine.reference_model import Reference
from ratelimit.registry.windows import DAY_US

pytestmark = pytest.mark.slow

HOURLY = ("0", "1/3600", "1/1800", "1/1200")
PER_SECOND = ("0", "1", "2", "5")
MIDNIGHT = round(datetime(2026, 3, 1, tzinfo=UTC).timestamp()) * 1_000_000
"""A Sunday that is the first of a month: all windows change."""

SEEDS = range(60)
SPANS = {"rate": (None, None), "burst": (1, 2), "second": (1_000_000, 2), "day": (DAY_US, 1)}
"""For each figure: the span in microseconds, and how many quotas of a key fall into it."""


@pytest.mark.parametrize("figure", SPANS)
def test_each_figure_is_what_keys_by_themselves_add_up_to(figure):
    """Taking keys and methods together that are alike changes nothing: rate, burst, second, day of 60 catalogues."""
    finite = 0
    for seed in SEEDS:
        snapshot, keys = random_book(seed, HOURLY)
        expected = sent_at_most(kinds(snapshot, keys), *SPANS[figure])
        value = getattr(capacity_of(snapshot, keys).total, figure)
        assert value.exact == (expected and expected[0]), seed
        if value.exact is not None:
            finite += 1
            assert sum(bound.amount for bound in value.bounds) == value.exact, seed
    assert finite >= 30


def test_all_that_is_sent_meets_a_limit_that_binds():
    """The limits that are named are a cut: every kind of request has one of them, so no more can pass."""
    for seed in SEEDS:
        snapshot, keys = random_book(seed, HOURLY)
        total = capacity_of(snapshot, keys).total
        for figure in SPANS:
            value = getattr(total, figure)
            if value.exact is None:
                continue
            names = {bound.name for bound in value.bounds}
            for kind, limits in kinds(snapshot, keys).items():
                stands_for = {limit.name for limit in limits}
                # One name may stand for all methods of a stage that are alike.
                stands_for |= {name.rpartition(":")[0] for name in stands_for if name.count(":") > 1}
                assert names & stands_for, (seed, figure, kind)


def test_the_burst_is_reached():
    """Each request of the search is admitted in the last microsecond before windows change, or the first after."""
    reached = 0
    for seed in SEEDS:
        snapshot, keys = random_book(seed, HOURLY)
        requests = kinds(snapshot, keys)
        figure = capacity_of(snapshot, keys).total.burst
        if figure.exact is None:
            continue
        _, wanted = sent_at_most(requests, *SPANS["burst"])
        model = Reference()
        quota = {
            kind: next((each.quota.limit for each in limits if not isinstance(each, Bucket)), None)
            for kind, limits in requests.items()
        }
        before = dict.fromkeys((kind[0] for kind in requests), 0)
        admitted = 0
        for now_us in (MIDNIGHT - 1, MIDNIGHT):
            for kind, count in wanted.items():
                for _ in range(count):
                    if now_us < MIDNIGHT and quota[kind] is not None:
                        if before[kind[0]] == quota[kind]:
                            break
                        before[kind[0]] += 1
                    assert model.check(kind[0], requests[kind], 1, now_us).allowed, (seed, kind)
                    wanted[kind] -= 1
                    admitted += 1
        assert admitted == figure.exact, seed
        reached += bool(admitted)
    assert reached >= 30


@pytest.mark.parametrize(
    ("figure", "rates", "start", "steps"),
    [("day", HOURLY, MIDNIGHT, 144), ("second", PER_SECOND, MIDNIGHT - 500_000, 20)],
    ids=["day", "second"],
)
def test_nothing_that_is_sent_exceeds_the_bound(figure, rates, start, steps):
    """Whatever is tried at every moment at which a token may come, in any order: no more than the figure passes."""
    span_us, _ = SPANS[figure]
    for seed in SEEDS:
        snapshot, keys = random_book(seed, rates)
        value = getattr(capacity_of(snapshot, keys).total, figure)
        if value.exact is None:
            continue
        requests, pick, model = kinds(snapshot, keys), Random(seed), Reference()
        admitted = 0
        for now_us in moments(start, span_us, steps):
            order = list(requests)
            pick.shuffle(order)
            for kind in order[: pick.randrange(len(order) + 1)]:
                while model.check(kind[0], requests[kind], 1, now_us).allowed:
                    admitted += 1
        assert admitted <= value.exact, seed


@pytest.mark.parametrize(
    ("figure", "rates", "steps", "quotas", "expected"),
    [("day", HOURLY, 144, True, (29, 30, 1)), ("second", PER_SECOND, 20, False, (35, 35, 0))],
    ids=["day", "second"],
)
def test_the_bound_is_reached(figure, rates, steps, quotas, expected):
    """What the search wants to be sent, spread evenly, passes to the last request; in one catalogue one is lost."""
    span_us, start = SPANS[figure][0], MIDNIGHT
    exact = total = lost = 0
    for seed in SEEDS:
        snapshot, keys = random_book(seed, rates, quotas=quotas)
        value = getattr(capacity_of(snapshot, keys).total, figure)
        if not value.exact:
            continue
        requests, model = kinds(snapshot, keys), Reference()
        _, wanted = sent_at_most(requests, *SPANS[figure])
        sent = dict.fromkeys(requests, 0)
        for now_us in moments(start, span_us, steps):
            done = (now_us - start + span_us // steps) / span_us
            while True:
                late = sorted(
                    (kind for kind in requests if sent[kind] < wanted[kind]),
                    key=lambda kind: sent[kind] - wanted[kind] * done,
                )
                passed = next((kind for kind in late if model.check(kind[0], requests[kind], 1, now_us).allowed), None)
                if passed is None:
                    break
                sent[passed] += 1
        missing = value.exact - sum(sent.values())
        exact, total, lost = exact + (missing == 0), total + 1, max(lost, missing)
    assert (exact, total, lost) == expected


def moments(start, span_us, steps):
    """Moments at which tokens come, and the last microsecond of the span."""
    return [*(start + number * span_us // steps for number in range(steps)), start + span_us - 1]
