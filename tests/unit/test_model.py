"""Throttles and quotas: what they accept, what they keep, and how they refuse."""

import subprocess
import sys
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit import ConfigError, Quota, Throttle

EXACT = 2**53


@pytest.mark.parametrize(
    ("rate", "exact"),
    [
        (10, Fraction(10)),
        (0, Fraction(0)),
        (0.1, Fraction(1, 10)),
        (-0.0, Fraction(0)),
        (2.5, Fraction(5, 2)),
        (1e-6, Fraction(1, 10**6)),
        ("0.1", Fraction(1, 10)),
        ("1/3", Fraction(1, 3)),
        ("10", Fraction(10)),
        ("1e3", Fraction(1000)),
        ("1_000.5", Fraction(2001, 2)),
        (Decimal("0.1"), Fraction(1, 10)),
        (Fraction(1, 3), Fraction(1, 3)),
    ],
)
def test_a_rate_is_read_exactly_as_it_is_shown(rate, exact):
    """A float is the decimal that it shows: 0.1 is one tenth."""
    assert Throttle(rate, 1).rate == exact


@given(st.integers(0, 10**6), st.integers(0, 3))
def test_a_float_is_its_decimal(digits, places):
    """Whatever decimal a float shows is the rate."""
    shown = Fraction(digits, 10**places)
    assert Throttle(digits / 10**places, 1).rate == shown


@pytest.mark.parametrize(
    ("rate", "ratio"),
    [
        (10, (1, 100_000)),
        (0.1, (1, 10**7)),
        (2.5, (1, 400_000)),
        ("1/3", (1, 3_000_000)),
        (7, (7, 1_000_000)),
        (3_000_000, (3, 1)),
        (0, (0, 1)),
    ],
)
def test_the_ratio_is_tokens_per_microseconds_in_lowest_terms(rate, ratio):
    """R tokens every P us: what the script computes with."""
    assert Throttle(rate, 1).ratio == ratio


@pytest.mark.parametrize(
    "rate",
    [
        True,
        None,
        b"10",
        [10],
        1j,
        "",
        "ten",
        "10/s",
        "1/0",
        "0x10",
        float("nan"),
        float("inf"),
        "nan",
        "inf",
        Decimal("NaN"),
        Decimal("Infinity"),
        -1,
        -0.5,
        "-1/3",
    ],
)
def test_what_is_no_rate_is_refused(rate):
    """The error names the field, shows the value and says what to write."""
    with pytest.raises(ConfigError) as caught:
        Throttle(rate, 1)
    assert caught.value.field == "rate"
    assert (str(rate) if isinstance(rate, Decimal) else repr(rate)) in str(caught.value)
    assert "write tokens per second as a number >= 0, such as 10, 0.5 or '1/3'" in str(caught.value)


@pytest.mark.parametrize("burst", [True, None, 5.0, "5", Fraction(5), -1, EXACT, 10**30])
def test_what_is_no_burst_is_refused(burst):
    """A burst is a whole number from 0 to 2^53 - 1."""
    with pytest.raises(ConfigError, match=r"^burst: must be "):
        Throttle(1, burst)


@pytest.mark.parametrize("make", [lambda n: Throttle(n, 1), lambda n: Throttle(1, n), lambda n: Quota(n, "DAY")])
def test_a_number_too_long_to_print_is_refused_like_any_other(make):
    """Python does not print whole numbers of more than 4300 digits; the error is a ConfigError all the same."""
    with pytest.raises(ConfigError):
        make(10**5000)


HUGE_EXPONENTS = [
    "1e400000000",
    "1e-400000000",
    "1e9_999_999_999",
    "1e99999999999999999999",
    "1e-99999999999999999999 ",
]


def test_a_rate_with_a_huge_exponent_is_refused_at_once():
    """Twelve characters of a plan file must not occupy a processor for minutes and memory without end."""
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_CPU, (2, 2))
from ratelimit import Throttle
for rate in {HUGE_EXPONENTS}:
    try: Throttle(rate, 1)
    except ValueError as error: print(type(error).__name__)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.split() == ["ConfigError"] * len(HUGE_EXPONENTS)


@pytest.mark.parametrize(
    ("rate", "burst"),
    [
        (1_000_000, EXACT - 2),  # 1/1: burst + 1 reaches it with one more
        ("0.000001", 9007),  # 1/10^12
        (1_000_000 * (EXACT - 4), 3),  # R itself: 3 + R
        (1_000_000 * (EXACT - 4), 0),  # a burst below 3 counts as 3: a bucket of that size can be rescaled exactly
    ],
)
def test_the_last_exact_throttle_is_accepted_and_the_next_is_not(rate, burst):
    """max(burst, 3) * P + R stays below 2^53, or the error says which way to go."""
    assert Throttle(rate, burst).burst == burst
    over = (rate + 1_000_000, burst) if burst < 4 else (rate, burst + 1)
    with pytest.raises(
        ConfigError, match=r"^rate: .* cannot be computed exactly below 2\^53: give the rate fewer"
    ) as caught:
        Throttle(*over)
    assert caught.value.field == "rate"


@given(st.fractions(0, 10**9, max_denominator=10**6), st.integers(0, 10**4))
def test_an_accepted_throttle_is_exact(rate, burst):
    """Whatever is accepted obeys the bound, and whatever is refused breaks it."""
    tokens, per = (rate / 10**6).numerator, (rate / 10**6).denominator
    if max(burst, 3) * per + tokens < EXACT:
        assert Throttle(rate, burst).ratio == (tokens, per)
    else:
        with pytest.raises(ConfigError, match="cannot be computed exactly"):
            Throttle(rate, burst)


@pytest.mark.parametrize(("period", "last"), [("DAY", 0), ("WEEK", 6), ("MONTH", 27)])
def test_offsets_are_those_of_the_period(period, last):
    """0 for DAY, 0 to 6 for WEEK, 0 to 27 for MONTH; the error gives the range."""
    assert Quota(1, period, last).offset == last
    for offset in (last + 1, -1, True, 1.0, None):
        with pytest.raises(ConfigError, match=r"^offset: must be ") as caught:
            Quota(1, period, offset)
        assert f"(days, for the period {period})" in str(caught.value)


@pytest.mark.parametrize("period", ["HOUR", "day", "", None, 1, ["DAY"]])
def test_other_periods_are_refused(period):
    """The error lists the three."""
    with pytest.raises(ConfigError, match=r"^period: must be one of DAY, WEEK, MONTH, not "):
        Quota(1, period)


@pytest.mark.parametrize("limit", [True, None, 1.0, "1", -1, EXACT])
def test_other_quota_limits_are_refused(limit):
    """A limit is a whole number from 0 to 2^53 - 1."""
    assert Quota(EXACT - 1, "DAY").limit == EXACT - 1
    with pytest.raises(ConfigError, match=r"^limit: must be "):
        Quota(limit, "DAY")
