"""SVG plots of a result: `python benchmarks/plots.py results/latest.json`. Without matplotlib none are made."""

import json
import sys
from pathlib import Path

import full_server
import growth
import ours
import tail
import throughput
from hdrh.histogram import HdrHistogram
from workers import BY_NAME

OURS, PEER, FLOOR = "#0b6e4f", "#8d99ae", "#d9dce3"
SHADES = ("#c8553d", "#3f7cac", "#8d6a9f", "#c9a227", "#8d99ae", "#6b705c")


def _pyplot():
    try:
        import matplotlib as mpl  # noqa: PLC0415 - large, and not everybody has it
    except ImportError:
        return None
    mpl.use("svg")
    import matplotlib.pyplot as plt  # noqa: PLC0415 - after the choice of its backend

    plt.rcParams.update(
        {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "ratelimit"}
    )
    return plt


def _colour(name):
    kind = BY_NAME[name].kind if name in BY_NAME else "ours"
    return {"ours": OURS, "peer": PEER, "floor": FLOOR}[kind]


def _bars(axes, names, values, colours, label):
    places = range(len(names))
    axes.barh(places, values, color=colours)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    for place, value in zip(places, values, strict=True):
        axes.text(value, place, f" {value:,.0f}", va="center", fontsize=8)
    axes.margins(x=0.12)


def latency(plt, result):
    """Percentiles of single calls on the quoted server and placement."""
    entries = result["latency"]
    first = entries[0]["extra_info"]
    mine = [e["extra_info"] for e in entries if e["extra_info"]["server"] == first["server"]]
    mine = [e for e in mine if e["placement"] == first["placement"]]
    figure, axes = plt.subplots(figsize=(8, 4.2))
    names = [entry["contender"] for entry in mine]
    for offset, (point, alpha) in zip((-0.27, 0, 0.27), (("p50", 1.0), ("p99", 0.65), ("p99.9", 0.35)), strict=True):
        values = [entry["wall_us_percentiles"][point] for entry in mine]
        colours = [_colour(name) for name in names]
        places = [place + offset for place in range(len(names))]
        axes.barh(places, values, height=0.25, color=colours, alpha=alpha, edgecolor="#444", linewidth=0.3)
        for place, value in zip(places, values, strict=True):
            axes.text(value, place, f" {point} {value:,.0f}", va="center", fontsize=6)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("wall time of one call, µs (log)")
    axes.set_title(f"One call on one connection: {first['server_version']}, {first['placement']}", loc="left")
    return figure


def processes(plt, result):
    settings = throughput.by_setting(result["throughput"]["processes"])
    names = list(dict.fromkeys(run["contender"] for runs in settings.values() for run in runs))
    panels = len(settings) + 1
    figure, row = plt.subplots(1, panels, figsize=(3.6 * panels, 3.6), squeeze=False)
    for axes, (setting, runs) in zip(row[0], settings.items(), strict=False):
        for name, style in zip(names, _styles(names), strict=True):
            mine = [run for run in runs if run["contender"] == name]
            if mine:
                x, y = zip(*((run["processes"], run["per_second"][1]) for run in mine), strict=True)
                axes.plot(x, y, marker="o", label=name, **style)
        axes.set_title(setting, loc="left")
    filled = row[0][-1]
    for (name, runs), shade in zip(full_server.lines(result["throughput"]["full_server"]), SHADES, strict=False):
        x, y = zip(*((run["processes"], run["per_second"][1]) for run in runs), strict=True)
        filled.plot(x, y, marker="o", label=name, color=shade)
    filled.set_title("a full server, prepared checks", loc="left")
    for axes in row[0]:
        axes.set_xticks(throughput.PROCESSES)
        axes.set_xlabel("processes")
        axes.set_ylim(bottom=0)
    row[0][0].set_ylabel("checks per second")
    for axes in (row[0][0], filled):
        axes.legend(fontsize=7, frameon=False)
    figure.tight_layout()
    return figure


def _styles(names):
    """Ours thick, floors dashed, each peer in a colour of its own."""
    shades = iter(SHADES)
    for name in names:
        kind = BY_NAME[name].kind
        if kind == "ours":
            yield {"color": OURS, "linewidth": 2.6}
        elif kind == "floor":
            yield {"color": "#555", "linestyle": "--", "linewidth": 1}
        else:
            yield {"color": next(shades), "linewidth": 1.3}


def instructions(plt, result):
    found = result["instructions"]
    if not found["per_check"]:
        return None
    figure, axes = plt.subplots(figsize=(8, 3.6))
    names = list(found["per_check"])
    colours = [_colour(name) for name in names]
    _bars(axes, names, list(found["per_check"].values()), colours, "instructions of the server per call")
    axes.set_title(f"What a call costs the server ({found['version']}, callgrind)", loc="left")
    return figure


def memory(plt, result):
    name, contenders = next(iter(result["memory"]["active"].items()))
    figure, axes = plt.subplots(figsize=(8, 2.6))
    colours = [OURS if contender == ours.CHECK.name else PEER for contender in contenders]
    _bars(axes, list(contenders), [one["state"] for one in contenders.values()], colours, "bytes, MEMORY USAGE")
    axes.set_title(f"State of a caller with a throttle and a daily quota ({name})", loc="left")
    return figure


def growths(plt, result):
    """Above, what the client spends on a check; below, what the server does: for each series of work."""
    points = [point for point in result["growth"]["points"] if point["work"]]
    counted = not result["growth"]["absent"]
    figure, grid = plt.subplots(
        2 if counted else 1, len(growth.SERIES), figsize=(10, 5.6 if counted else 3), squeeze=False
    )
    for column, (series, what) in enumerate(growth.SERIES.items()):
        mine = [point for point in points if point["series"] == series]
        grid[0][column].set_title(what, loc="left")
        drawn = [({kind: [p["cpu"][kind][1] for p in mine] for kind in growth.KINDS}, mine)]
        if counted:
            some = [p for p in mine if "instructions" in p]
            drawn.append(({kind: [p["instructions"][kind] for p in some] for kind in ("cold", "warm")}, some))
        for axes, (lines, its) in zip((row[column] for row in grid), drawn, strict=True):
            for (kind, values), colour in zip(reversed(lines.items()), (OURS, *SHADES), strict=False):
                axes.plot([p["work"] for p in its], values, marker="o", color=colour, label=growth.KINDS[kind])
            axes.set_xscale("linear" if series == "limits" else "log")
        grid[0][column].set_yscale("log")
        if counted and series == "limits":
            line = zip(*result["growth"]["script"], strict=True)
            grid[1][column].plot(*line, linestyle=":", marker=".", color=SHADES[-1], label="check.lua alone")
            grid[1][column].legend(fontsize=7, frameon=False)
        if counted:
            grid[1][column].set_ylim(bottom=0)
    grid[0][0].set_ylabel("CPU of the client, µs (log)")
    grid[0][0].legend(fontsize=7, frameon=False)
    if counted:
        grid[1][0].set_ylabel("instructions of the server")
    figure.tight_layout()
    return figure


_TAIL = (50, 75, 90, 95, 99, 99.5, 99.9, 99.95)


def tails(plt, result):
    """How latency rises towards the rarest requests, at loads that are the same for all."""
    figure, grid = plt.subplots(
        len(tail.HOW), len(tail.SHARES), figsize=(9, 3.4 * len(tail.HOW)), sharey="row", squeeze=False
    )
    for row, (how, said) in zip(grid, tail.HOW.items(), strict=True):
        runs = [run for run in result["tail"][how]["runs"] if run["load"] == tail.SAME]
        for axes, share in zip(row, tail.SHARES, strict=True):
            mine = {run["contender"]: run for run in runs if run["share"] == share}
            for (name, run), style in zip(mine.items(), _styles(mine), strict=True):
                found = HdrHistogram.decode(run["hdr"])
                values = [found.get_value_at_percentile(point) for point in _TAIL]
                axes.plot([1 / (1 - point / 100) for point in _TAIL], values, marker="o", ms=3, label=name, **style)
            axes.set_xscale("log")
            axes.set_xticks([2, 10, 100, 1000], ["50 %", "90 %", "99 %", "99.9 %"])
            axes.set_yscale("log")
            load = f"{run['per_second']:,.0f} requests per second"
            axes.set_title(f"{said}, {share:.0%} {tail.SAME}: {load}", loc="left", fontsize=7)
            axes.set_xlabel("share of the requests")
        row[0].set_ylabel("µs from when a request was due (log)")
    grid[0][0].legend(fontsize=7, frameon=False)
    figure.tight_layout()
    return figure


PLOTS = {
    "latency": latency,
    "throughput": processes,
    "instructions": instructions,
    "memory": memory,
    "growth": growths,
    "tail": tails,
}


def draw(result, folder):
    """Draw every part that the result has; return the files, none at all where matplotlib is missing."""
    plt = _pyplot()
    drawn = []
    for part, plot in PLOTS.items() if plt else ():
        figure = plot(plt, result) if result.get(part) else None
        if figure is not None:
            path = folder / f"{part}.svg"
            figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
            plt.close(figure)
            drawn.append(path)
    return drawn


if __name__ == "__main__":
    source = Path(sys.argv[1])
    for path in draw(json.loads(source.read_text()), source.parent):
        print(path)
