"""Tests of connections count threads and sockets: none of a test before may come or go meanwhile."""

import pytest
from helpers import endpoints


@pytest.fixture(autouse=True)
def others_are_closed():
    """Close what is still alive of tests before: a catalogue has no end of its own, and a failed test keeps its own."""
    endpoints.close_all()
