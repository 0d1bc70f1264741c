"""How old the catalogue may be where its server may be away while a key's is not."""

import pytest

from ratelimit.errors import ConfigError, StoreError
from ratelimit.limiter.catalog_refresh import CatalogRefresh


class Unusable:
    """A namespace whose catalogue was confirmed, and now cannot be used."""

    confirmed_us = 0

    def __init__(self, error):
        self.error = error

    def refresh(self):
        raise self.error
        yield


def run(operation):
    """Run an operation, and at once what it starts."""
    for effect in operation:
        if hasattr(effect, "operation"):
            run(effect.operation)


@pytest.mark.parametrize(
    "error", [StoreError("it is of a later version", cause="lost"), ConfigError("is another", field="pepper")]
)
def test_each_check_has_an_error_of_its_own(error):
    """One that all share would keep the frames of every check that raised it, and the keys in them."""
    refresh = CatalogRefresh(Unusable(error), 300)
    raised = []
    for _ in range(5):
        with pytest.raises(type(error)) as caught:
            run(refresh.refresh(1))
        raised.append(caught.value)
    assert len({id(each) for each in raised}) == 5
    assert {(type(each), str(each), vars(each) == vars(error)) for each in raised} == {(type(error), str(error), True)}
    frames = [0] * 5
    for at, each in enumerate(raised):
        traceback = each.__traceback__
        while traceback is not None:
            frames[at], traceback = frames[at] + 1, traceback.tb_next
    assert len(set(frames)) == 1
