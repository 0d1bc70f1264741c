"""pytest-benchmark's part: servers, paired rounds, and what was measured on written into its results."""

import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import host
import latency
import progress

_measured = []


def pytest_addoption(parser):
    parser.addoption("--rounds", type=int, default=30, help="paired rounds on each server")
    parser.addoption("--more-peers", action="store_true", help="measure every algorithm of the peers")


def pytest_benchmark_update_machine_info(config, machine_info):
    """pytest-benchmark's own facts about the machine, and ours."""
    del config
    machine_info["about"] = host.description()
    machine_info["servers"] = {found.name: found.version for found in _measured}


def _wheres():
    """Every server on one core with the client; the main one also on a core of its own."""
    quoted, *others = host.placements()
    return [(name, quoted) for name in host.NAMES] + [(host.MAIN, other) for other in others]


@pytest.fixture(scope="session", params=_wheres(), ids="/".join)
def measured(request):
    """All contenders connected to one server and timed in paired rounds; pytest-benchmark then takes them singly."""
    name, placement = request.param
    capture = request.config.pluginmanager.getplugin("capturemanager")
    rounds = request.config.getoption("--rounds")
    with host.placed_server(name, placement) as server, ExitStack() as stack:
        entered = latency.contenders(request.config.getoption("--more-peers"))
        found = latency.Measured.on(server, placement, stack, entered)
        with capture.global_and_fixture_disabled():
            print()
            with progress.steps(f"{found.version}, {placement}: paired rounds", rounds + 1) as tell:
                found.take_rounds(rounds, tell)
        _measured.append(found)
        yield found


def pytest_terminal_summary(terminalreporter):
    """The paired figures, which are the ones to quote, after pytest-benchmark's table."""
    del terminalreporter
    for found in _measured:
        progress.console.print()
        progress.console.print(found.table())
