"""Latency of one call, one caller, one connection: contenders on a server, timed in paired rounds."""

from dataclasses import dataclass, field

import floors
import host
import ours
import peers
from contenders import AMPLE
from report import Figure
from rich.table import Table
from rounds import Spread, interleaved, ratio, spread

CALLS_PER_ROUND = 200
TARGETS = {peers.THROTTLED_BUCKET.name: 0.30, peers.LIMITS_FIXED.name: 0.30, floors.RAW.name: 1.8}
"""Of CPU per check, as a multiple of the contender's."""

IN_PROCESS_US = 3
"""CPU of a check that is answered without a round trip, with the rare ones that take one."""


def contenders(more_peers=False):
    return [*floors.ALL, *ours.ALL, *(peers.ALL if more_peers else peers.MAIN)]


@dataclass
class Measured:
    """Contenders connected to a server, and what the rounds gave."""

    name: str
    version: str
    placement: str
    contenders: dict
    calls: dict
    samples: dict = field(default_factory=dict)

    @classmethod
    def on(cls, server, placement, stack, entered):
        calls = {}
        for contender in entered:
            (caller,) = contender.enrol(server.url, AMPLE, 1)
            call = stack.enter_context(contender.connect(server.url, AMPLE))
            calls[contender.name] = (lambda call=call, caller=caller: call(caller), contender.admits)
        with server.client() as client:
            version = host.described(client)
        return cls(server.name, version, placement, {contender.name: contender for contender in entered}, calls)

    def take_rounds(self, rounds, tell):
        self.samples = interleaved(self.calls, rounds, CALLS_PER_ROUND, tell)

    def _series(self, name, clock):
        return [getattr(sample, clock) for sample in self.samples[name]]

    def summary(self, name):
        """For the JSON: medians and quartiles, and how many times that a check takes."""
        check, extra = ours.CHECK.name, {}
        for clock in ("cpu", "wall"):
            extra[f"{clock}_us"] = spread(self._series(name, clock))
            extra[f"check_{clock}_ratio"] = ratio(self._series(check, clock), self._series(name, clock))
        contender = self.contenders[name]
        about = {"server": self.name, "server_version": self.version, "placement": self.placement}
        return {**about, "kind": contender.kind, **extra}

    def table(self):
        rounds = len(self.samples[ours.CHECK.name])
        title = f"{self.version} ({self.name}), {self.placement}: one call on one connection, {rounds} rounds"
        table = Table(title=title, title_justify="left", title_style="bold")
        table.add_column("contender")
        table.add_column("enforces")
        for column in ("CPU µs", "wall µs", "check / this, CPU", "quartiles", "wall"):
            table.add_column(column, justify="right", no_wrap=True)
        for name, contender in self.contenders.items():
            summary = self.summary(name)
            cpu, wall = summary["check_cpu_ratio"], summary["check_wall_ratio"]
            compared = () if name == ours.CHECK.name else (f"{cpu.middle:.2f}x", f"{cpu.low:.2f} - {cpu.high:.2f}")
            walls = f"{wall.middle:.2f}x" if compared else ""
            table.add_row(
                name,
                contender.limits,
                f"{summary['cpu_us'].middle:.1f}",
                f"{summary['wall_us'].middle:.1f}",
                *(compared or ("", "")),
                walls,
                style="bold" if contender.kind == "ours" else None,
            )
        return table


def figures(benchmarks):
    """From pytest-benchmark's JSON: ratios of CPU and of wall time for each server."""
    found, in_process = [], {one.name for one in ours.IN_PROCESS}
    for entry in benchmarks:
        about = entry["extra_info"]
        where = f"{about['server']}, {about['placement']}"
        if about["contender"] in in_process:
            spent = Spread(*about["cpu_us"])
            found.append(Figure.of(f"{where}: CPU time, {about['contender']}", spent, "us", target=IN_PROCESS_US))
        if about["kind"] == "ours":
            continue
        for clock in ("cpu", "wall"):
            low, middle, high = about[f"check_{clock}_ratio"]
            target = TARGETS.get(about["contender"]) if clock == "cpu" else None
            what = f"{where}: {clock.replace('cpu', 'CPU')} time of a check / {about['contender']}"
            found.append(Figure(what, middle, "x", "lower", target, low, high))
    return found


def tables(benchmarks):
    """From pytest-benchmark's JSON: paired rounds, and percentiles of single calls, for each server and placement."""
    wheres = dict.fromkeys((e["extra_info"]["server"], e["extra_info"]["placement"]) for e in benchmarks)
    for where in wheres:
        mine = [e["extra_info"] for e in benchmarks]
        mine = [about for about in mine if (about["server"], about["placement"]) == where]
        table = Table(title=f"{mine[0]['server_version']} ({where[0]}), {where[1]}", title_justify="left")
        for column in ("contender", "enforces"):
            table.add_column(column)
        for column in ("CPU µs", "check / this, CPU", "quartiles", "wall µs: p50", "p99", "p99.9"):
            table.add_column(column, justify="right", no_wrap=True)
        for about in mine:
            low, middle, high = about["check_cpu_ratio"]
            compared = about["contender"] != ours.CHECK.name
            ratios = (f"{middle:.2f}x", f"{low:.2f} - {high:.2f}") if compared else ("", "")
            points = [f"{us:,.1f}" for us in about.get("wall_us_percentiles", {}).values()]
            cpu = f"{about['cpu_us'][1]:.1f}"
            table.add_row(about["contender"], about["limits"], cpu, *ratios, *points)
        yield table
