"""lua/check_many.lua: checks that are asked at once."""

import promises_of_batches as batches
import pytest


@pytest.mark.parametrize(
    "promise",
    [
        batches.checks_at_once_are_charged_one_by_one,
        batches.methods_of_one_key_count_for_one_quota,
        batches.nobody_is_overtaken,
        batches.checks_at_once_obey,
    ],
    ids=lambda promise: promise.__name__,
)
def test_a_promise_holds_for_checks_at_once(backend, clock, promise):
    """Charged one by one, all or nothing, in order; and a revoked key is refused."""
    promise(backend, clock)


def test_an_expiry_outlasts_the_way_to_full(backend):
    """Kept for a minute longer, and not renewed more often than needed."""
    batches.an_expiry_outlasts_the_way_to_full(backend)
