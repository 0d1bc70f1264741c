"""Catalogues on each backend: the blocking one, and either twin."""

import pytest
from helpers.key_files import with_plans
from helpers.twins import CatalogTwin

from ratelimit import Catalog


@pytest.fixture
def catalog(client, clock):
    """A blocking catalogue."""
    return Catalog(client, clock=clock)


@pytest.fixture(params=[False, True], ids=["blocking", "asyncio"])
def make_twin(request, backend):
    """Make a catalogue of either twin, with these options."""
    return lambda **options: CatalogTwin(backend, request.param, **options)


@pytest.fixture
def twin(make_twin, clock):
    """Either twin of the catalogue."""
    return make_twin(clock=clock)


@pytest.fixture
def three_plans(client, clock):
    """Three plans for keys that are imported, of which two open the same stages."""
    with_plans(Catalog(client, clock=clock))
