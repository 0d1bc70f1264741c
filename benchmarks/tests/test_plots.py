"""Plots: every series can be told apart, and a contender looks the same in all of them."""

from itertools import combinations
from types import SimpleNamespace

import pytest

from benchmarks.contenders import floors, ours, peers, peers_two_limits
from benchmarks.contenders.by_name import BY_NAME
from benchmarks.report import plots
from benchmarks.suite import arrivals, full_server, growth, instructions, latency, memory, tail, throughput

colors = pytest.importorskip("matplotlib.colors")
LEAST_DISTANCE = 0.05
"""Of two colours, in RGB from 0 to 1: what can still be seen as two."""
LINES = [floors.EVALSHA.name, ours.CHECK.name, ours.LEASED.name, *(one.name for one in peers.MAIN)]


def distance(one, other):
    return sum((a - b) ** 2 for a, b in zip(colors.to_rgb(one), colors.to_rgb(other), strict=True)) ** 0.5


def latency_result():
    entries = [
        {"contender": one.name, "server": "valkey", "placement": "same core", "server_version": "valkey 9"}
        | {"wall_us_percentiles": {"p50": 10, "p99": 20, "p99.9": 40}}
        for one in latency.contenders(more_peers=True)
    ]
    return [{"extra_info": entry} for entry in entries]


def throughput_result():
    runs = [
        {"contender": name, "setting": setting, "processes": processes, "per_second": (1, number + 1, 9)}
        for setting in ("one hot key", "many keys")
        for number, name in enumerate(LINES)
        for processes in throughput.PROCESSES
    ]
    full = [
        {
            "keys": keys,
            "runs": [
                {"way": way, "processes": processes, "per_second": (1, 2, 3)}
                for way in full_server.WAYS
                for processes in full_server.PROCESSES
            ],
        }
        for keys in (1, 100)
    ]
    return {"processes": runs, "full_server": full}


def tail_result():
    histogram = arrivals.histogram([0.001, 0.002]).encode().decode("ascii")
    runs = [
        {"contender": one.name, "load": arrivals.SAME, "share": share, "per_second": 10.0, "hdr": histogram}
        for share in arrivals.SHARES
        for one in tail.CONTENDERS
    ]
    return {way: {"runs": runs} for way in tail.WAYS}


def growth_result():
    points = [
        {"series": series, "work": work, "cpu": dict.fromkeys(growth.KINDS, (1, 2, 3))}
        | {"instructions": {"cold": 5, "warm": 4}}
        for series in growth.SERIES
        for work in (1, 2)
    ]
    return {"points": points, "absent": None, "script": [(1, 2), (2, 3)]}


def instructions_result():
    chosen = [floors.INCR, floors.EVALSHA, *ours.ALL, *peers.ALL]
    names = [one.name for one in chosen] + list(instructions.TOGETHER)
    return {"version": "redis 7", "per_check": dict.fromkeys(names, 100)}


def memory_result():
    return {"active": {"valkey": {name: {"state": 100} for name in (ours.CHECK.name, *peers_two_limits.ALL)}}}


RESULTS = {
    latency: latency_result,
    throughput: throughput_result,
    tail: tail_result,
    growth: growth_result,
    instructions: instructions_result,
    memory: memory_result,
}


@pytest.fixture
def draw():
    """A function that plots a part from made-up results, and returns the figure."""
    plt = plots.pyplot()
    yield lambda part: part.plot(plt, RESULTS[part]())
    plt.close("all")


def colours_of(axes):
    """For each series of a plot its colour: of a line by its label, of a bar by the label beside it."""
    series = {line.get_label(): colors.to_hex(line.get_color()) for line in axes.get_lines()}
    labels = [label.get_text() for label in axes.get_yticklabels()]
    for bars in axes.containers:
        assert len(labels) == len(bars)
        series |= {label: colors.to_hex(bar.get_facecolor()) for label, bar in zip(labels, bars, strict=True)}
    return series


@pytest.mark.parametrize("part", RESULTS, ids=lambda part: part.__name__.rpartition(".")[2])
def test_series_of_a_plot_differ_in_colour_and_lines_in_marker(draw, part):
    """Of each pair the colours are far enough apart to be seen as two; lines have a marker of their own as well."""
    drawn = 0
    for axes in draw(part).axes:
        series = colours_of(axes)
        drawn += len(series)
        too_close = [pair for pair in combinations(series, 2) if distance(*map(series.get, pair)) < LEAST_DISTANCE]
        assert too_close == []
        markers = [line.get_marker() for line in axes.get_lines()]
        assert len(set(markers)) == len(markers)
    assert drawn


def test_a_contender_has_one_colour_in_all_plots_and_nothing_else_has_it(draw):
    """By name, over all parts; series that are no contenders have no contender's colour."""
    contenders = {*BY_NAME, *peers_two_limits.ALL}
    names_of = {}
    for part in RESULTS:
        for axes in draw(part).axes:
            for name, colour in colours_of(axes).items():
                names_of.setdefault(colour, set()).add(name if name in contenders else "no contender")
    assert {colour: names for colour, names in names_of.items() if len(names) > 1} == {}
    drawn = {name for names in names_of.values() for name in names} - {"no contender"}
    assert len(drawn) == sum("no contender" not in names for names in names_of.values())
    assert ours.CHECK.name in drawn
    assert ours.LEASED.name in drawn


def test_every_contender_has_a_style():
    """Also those that a short run leaves out."""
    assert {*BY_NAME, peers.LIMITS_COREDIS.name, *peers_two_limits.ALL} == set(plots.STYLES)


def test_a_part_without_a_plot_or_a_result_is_left_out(tmp_path):
    """Only what can be drawn is drawn, under the name of its part."""
    parts = {
        "memory": SimpleNamespace(module=memory),
        "tail": SimpleNamespace(module=tail),
        "plain": SimpleNamespace(module=SimpleNamespace()),
    }
    drawn = plots.draw({"memory": memory_result(), "plain": {"any": "result"}}, parts, tmp_path)
    assert [path.name for path in drawn] == ["memory.svg"]
