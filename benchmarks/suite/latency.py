"""Latency of one call, one caller, one connection: contenders on a server, timed in paired rounds."""

from dataclasses import dataclass, field

from rich.table import Table

from benchmarks.contenders import floors, ours, peers
from benchmarks.contenders.contender import AMPLE
from benchmarks.report import plots
from benchmarks.report.results import Figure, Spread
from benchmarks.suite import host
from benchmarks.suite.rounds import interleaved, ratio, ratio_above, spread

CALLS_PER_ROUND = 200

ABOVE_PEERS = 0.15
"""Of the CPU that a check adds to the raw round trip, as a multiple of what each of the main peers adds to it.

Not of the CPU of a whole call: the raw round trip is a part of that for everybody, and how large a part depends on the
machine and on whether client and server share a core.
"""
ABOVE_FLOORS = {ours.RAW.name: 1.35, floors.RAW.name: 1.8}
"""Of the CPU of a check, as a multiple of the floor's: of the same command without this library, and of a no-op."""

IN_PROCESS_US = 3
"""CPU in microseconds of a check that is decided without a round trip, with the rare ones that take one."""

HEADLINES = (
    "CPU time of a check on the main server. *Above the raw round trip* is the CPU time of a check minus that of a raw "
    f"round trip ({floors.RAW.name}), divided by the same difference of a peer, round by round: what each adds to what "
    f"nobody can avoid. *The floor* ({ours.RAW.name}) sends the command of a check and receives its reply without this "
    "library. Of whole calls the raw round trip is a part on both sides, a larger one where system calls are slow or "
    "where another core has to be woken: those ratios differ most between machines. Client and server on one core, and "
    "on a core each; medians and quartiles of paired rounds. What has no quartiles is computed from the published "
    "medians of a run that did not subtract round by round."
)


def contenders(more_peers=False):
    return [*floors.ALL, ours.RAW, *ours.ALL, *(peers.ALL if more_peers else peers.MAIN)]


@dataclass
class Measured:
    """Contenders connected to a server, and the samples of the rounds."""

    name: str
    version: str
    placement: str
    contenders: dict
    calls: dict
    samples: dict = field(default_factory=dict)

    @classmethod
    def on(cls, server, placement, stack, chosen):
        calls = {}
        for contender in chosen:
            (caller,) = contender.enrol(server.url, AMPLE, 1)
            call = stack.enter_context(contender.connect(server.url, AMPLE))
            calls[contender.name] = (lambda call=call, caller=caller: call(caller), contender.admits)
        with server.client() as client:
            version = host.server_version(client)
        return cls(server.name, version, placement, {contender.name: contender for contender in chosen}, calls)

    def run_rounds(self, rounds, step):
        self.samples = interleaved(self.calls, rounds, CALLS_PER_ROUND, step)

    def _series(self, name, clock):
        return [getattr(sample, clock) for sample in self.samples[name]]

    def summary(self, name):
        """For the JSON: medians and quartiles in microseconds, and as multiples."""
        check, contender, spreads = ours.CHECK.name, self.contenders[name], {}
        for clock in ("cpu", "wall"):
            spreads[f"{clock}_us"] = spread(self._series(name, clock))
            spreads[f"check_{clock}_ratio"] = ratio(self._series(check, clock), self._series(name, clock))
        if contender.kind == "peer":
            cpu = (self._series(each, "cpu") for each in (floors.RAW.name, check, name))
            spreads["check_cpu_above_raw_ratio"] = ratio_above(*cpu)
        where = {"server": self.name, "server_version": self.version, "placement": self.placement}
        return {**where, "kind": contender.kind, **spreads}

    def table(self):
        rounds = len(self.samples[ours.CHECK.name])
        title = f"{self.version} ({self.name}), {self.placement}: one call on one connection, {rounds} rounds"
        table = Table(title=title, title_justify="left", title_style="bold")
        table.add_column("contender", no_wrap=True)
        table.add_column("enforces")
        for column in ("CPU µs", "wall µs", *_RATIOS, "wall, check / this"):
            table.add_column(column, justify="right")
        for name, contender in self.contenders.items():
            summary = self.summary(name)
            wall = f"{summary['check_wall_ratio'].middle:.2f}x" if name != ours.CHECK.name else ""
            table.add_row(
                name,
                contender.limits,
                f"{summary['cpu_us'].middle:.1f}",
                f"{summary['wall_us'].middle:.1f}",
                *_ratios(name, summary),
                wall,
                style="bold" if contender.kind == "ours" else None,
            )
        return table


_RATIOS = ("CPU, check / this", "quartiles", "CPU above raw, check / this", "quartiles")


def _ratios(name, summary):
    """Cells of the columns `_RATIOS`."""
    for key in ("check_cpu_ratio", "check_cpu_above_raw_ratio"):
        if name == ours.CHECK.name or key not in summary:
            yield from ("", "")
        else:
            times = Spread(*summary[key])
            yield from (f"{times.middle:.2f}x", str(times))


def _entries(benchmarks):
    """What each entry of pytest-benchmark's JSON holds of ours."""
    return [entry["extra_info"] for entry in benchmarks]


def figures(benchmarks):
    """From pytest-benchmark's JSON: ratios of CPU and of wall time for each server."""
    in_process, main_peers = ({one.name for one in group} for group in (ours.IN_PROCESS, peers.MAIN))
    for entry in _entries(benchmarks):
        where, name = f"{entry['server']}, {entry['placement']}", entry["contender"]
        if name in in_process:
            cpu = Spread(*entry["cpu_us"])
            yield Figure.of(f"{where}: CPU time, {name}", cpu, "us", target=IN_PROCESS_US)
        if entry["kind"] == "peer":
            above = Spread(*entry["check_cpu_above_raw_ratio"])
            target = ABOVE_PEERS if name in main_peers else None
            what = f"{where}: CPU time of a check above the raw round trip / {name}"
            yield Figure.of(what, above, target=target)
        if entry["kind"] == "ours":
            continue
        for clock, label in (("cpu", "CPU"), ("wall", "wall")):
            target = ABOVE_FLOORS.get(name) if clock == "cpu" else None
            times = Spread(*entry[f"check_{clock}_ratio"])
            yield Figure.of(f"{where}: {label} time of a check / {name}", times, target=target)


def headlines(benchmarks):
    """For each placement on the main server: the ratios of CPU time to quote, as (low, median, high)."""
    main_peers = [one.name for one in peers.MAIN]
    quoted = [(name, "check_cpu_above_raw_ratio", f"above the raw round trip / {name}") for name in main_peers]
    quoted.append((ours.RAW.name, "check_cpu_ratio", "whole call / the floor"))
    quoted += [(name, "check_cpu_ratio", f"whole call / {name}") for name in (floors.RAW.name, *main_peers)]
    rows = {}
    for entry in _entries(benchmarks):
        if entry["server"] == host.MAIN:
            rows.setdefault(entry["placement"], {})[entry["contender"]] = entry
    return {
        placement: {title: entries[name][key] for name, key, title in quoted if name in entries}
        for placement, entries in rows.items()
    }


def tables(benchmarks):
    """From pytest-benchmark's JSON: paired rounds, and percentiles of single calls, for each server and placement."""
    entries = _entries(benchmarks)
    for server, placement in dict.fromkeys((entry["server"], entry["placement"]) for entry in entries):
        chosen = [entry for entry in entries if (entry["server"], entry["placement"]) == (server, placement)]
        table = Table(title=f"{chosen[0]['server_version']} ({server}), {placement}", title_justify="left")
        for column in ("contender", "enforces"):
            table.add_column(column)
        for column in ("CPU µs", *_RATIOS, "wall µs: p50", "p99", "p99.9"):
            table.add_column(column, justify="right", no_wrap=True)
        for entry in chosen:
            points = [f"{us:,.1f}" for us in entry.get("wall_us_percentiles", {}).values()]
            ratios = _ratios(entry["contender"], entry)
            table.add_row(entry["contender"], entry["limits"], f"{entry['cpu_us'][1]:.1f}", *ratios, *points)
        yield table


def plot(plt, benchmarks):
    """Percentiles of single calls on the main server, with client and server on one core where that is possible."""
    entries = _entries(benchmarks)
    first = entries[0]
    chosen = [e for e in entries if (e["server"], e["placement"]) == (first["server"], first["placement"])]
    figure, axes = plt.subplots(figsize=(8, 0.36 * len(chosen) + 0.8))
    names = [entry["contender"] for entry in chosen]
    for offset, (point, alpha) in zip((-0.27, 0, 0.27), (("p50", 1.0), ("p99", 0.65), ("p99.9", 0.35)), strict=True):
        values = [entry["wall_us_percentiles"][point] for entry in chosen]
        places = [place + offset for place in range(len(names))]
        axes.barh(places, values, height=0.25, color=plots.colours(names), alpha=alpha, edgecolor="#444", linewidth=0.3)
        for place, value in zip(places, values, strict=True):
            axes.text(value, place, f" {point} {value:,.0f}", va="center", fontsize=6)
    plots.label_bars(axes, names)
    axes.set_xscale("log")
    axes.set_xlabel("wall time of one call, µs (log)")
    axes.set_title(f"One call on one connection: {first['server_version']}, {first['placement']}", loc="left")
    return figure
