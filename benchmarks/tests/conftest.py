"""pytest-benchmark's part: servers, paired rounds, and the machine that was measured on written into its results."""

from contextlib import ExitStack

import pytest

from benchmarks.report import progress
from benchmarks.suite import host, latency

_measured = []


def pytest_addoption(parser):
    parser.addoption("--rounds", type=int, default=30, help="paired rounds on each server")
    parser.addoption("--more-peers", action="store_true", help="measure every algorithm of the peers")


def pytest_benchmark_update_machine_info(config, machine_info):
    """pytest-benchmark's own facts about the machine, and ours."""
    del config
    machine_info["about"] = host.description()
    machine_info["servers"] = {each.name: each.version for each in _measured}


def _servers_and_placements():
    """Every server on one core with the client; the main one also on a core of its own."""
    first, *others = host.placements()
    return [(name, first) for name in host.NAMES] + [(host.MAIN, other) for other in others]


@pytest.fixture(scope="session", params=_servers_and_placements(), ids="/".join)
def measured(request):
    """All contenders connected to one server and timed in paired rounds; pytest-benchmark then times them singly."""
    name, placement = request.param
    capture = request.config.pluginmanager.getplugin("capturemanager")
    rounds = request.config.getoption("--rounds")
    with host.placed_server(name, placement) as server, ExitStack() as stack:
        chosen = latency.contenders(request.config.getoption("--more-peers"))
        result = latency.Measured.on(server, placement, stack, chosen)
        with capture.global_and_fixture_disabled():
            print()
            with progress.steps(f"{result.version}, {placement}: paired rounds", rounds + 1) as step:
                result.run_rounds(rounds, step)
        _measured.append(result)
        yield result


def pytest_terminal_summary(terminalreporter):
    """The paired figures, which are the ones to quote, after pytest-benchmark's table."""
    del terminalreporter
    for each in _measured:
        progress.console.print()
        progress.console.print(each.table())
