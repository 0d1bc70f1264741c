"""The tests of a script as killers of its mutants: collected once, then run for each mutant in a process of its own."""

import os
import signal
from unittest.mock import patch

import pytest
from _pytest.runner import runtestprotocol
from helpers.lua_tools import PlainServer
from hypothesis import Phase, settings

from ratelimit import scripts

TESTS = ("tests/lua",)
LONGEST_S = 60
"""More than the tests of a script take."""
LEFT_OUT = {
    "test_every_line_of_check_runs_under_some_vector",  # looks at lines, not at what they do
    "test_check_touches_no_key_that_it_was_not_given",  # these three are among `Killers`
    "test_checks_at_once_are_as_one_after_the_other",
    "test_by_the_servers_clock_expiries_are_the_same_too",
}


def with_tests(sources, then):
    """Pass the tests as they are; then call `then` with `Plugin.killer`. Return the exit code of pytest."""
    options = ["-q", "--no-header", "-p", "no:cacheprovider", "--server", "valkey"]
    options += ["-W", "ignore:Module already imported", "-W", "ignore:Slow code in plugin"]
    return pytest.main([*options, *TESTS], [Plugin(sources, then)])


class Plugin:
    """A plugin of pytest, in the place of its loop."""

    def __init__(self, sources, then):
        self._sources, self._then = sources, then
        self._scripts_of = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self):
        # The same examples each time, and none is kept: those that fail with a mutant are of no use to anybody.
        settings.register_profile("mutants", derandomize=True, database=None, phases=[Phase.explicit, Phase.generate])
        settings.load_profile("mutants")

    def pytest_runtestloop(self, session):
        for item in session.items:
            if item.originalname not in LEFT_OUT:
                self._scripts_of[item] = self._pass(item)
        self._then(self.killer)
        return True

    def _pass(self, item):
        """Pass a test as it is; return the scripts that run in it. What only reads them is about their text."""
        self._sources.read.clear()
        scripts.load.cache_clear()
        with patch.object(PlainServer, "__init__", autospec=True, side_effect=PlainServer.__init__) as plain_server:
            failed = fails(item)
        if not plain_server.called and not item.get_closest_marker("server"):
            return frozenset()
        if failed:
            raise pytest.UsageError(f"{item.nodeid} fails before any change")
        return frozenset(self._sources.read)

    def killer(self, names):
        """Return the first test of some scripts that fails, None if none does; the last that did is the first next."""
        items = [item for item, its_scripts in self._scripts_of.items() if its_scripts & set(names)]
        name = in_a_fork(lambda: next((item.name for item in items if fails(item)), ""))
        for item in items:
            if item.name == name:
                self._scripts_of = {item: self._scripts_of[item]} | self._scripts_of
                break
        return name


def fails(item):
    """Run a test; what the session has stays for others."""
    return any(report.failed for report in runtestprotocol(item, log=False, nextitem=item.session))


def in_a_fork(named):
    """Return the name that a call returns in a process of its own, which a script that does not end cannot keep."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(LONGEST_S)
        name = "a test broke off"
        try:
            name = named()
        finally:
            os.write(writer, name.encode())
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        name = pipe.read().decode()
    return "it does not end" if os.waitpid(child, 0)[1] else name or None
