"""Checks per second: of asyncio tasks, of 1, 2, 4 and 8 processes with exact totals, and of a server that is full."""

from dataclasses import asdict, dataclass

import floors
import full_server
import host
import ours
import peers
import tasks
from contenders import exactly
from progress import steps
from report import Figure
from rich.table import Table
from rounds import Spread, spread
from workers import workers

LEASED = [ours.LEASED]
PROCESSES = (1, 2, 4, 8)
TASKS = {"tasks": 64, "alone": 1}
"""Of one event loop: many, whose checks leave together, and one, whose check should not wait for company."""
IN_EACH = TASKS["tasks"]


@dataclass(frozen=True)
class Setting:
    """How processes are measured: on how many keys, and with how many asyncio tasks in each (0: none, no asyncio).

    All calls are made in three passes. On many keys the first one has the first look at each key and counts by itself.
    """

    name: str
    keys: int
    calls: int
    tasks: int = 0

    passes = 3


def settings(full):
    calls, keys = (20_000, 100_000) if full else (2_400, 3_200)
    return [
        Setting("one hot key", 1, calls),
        Setting(f"{keys:,} keys", keys, keys),
        Setting(f"one hot key, {IN_EACH} tasks in each", 1, 2 * calls, IN_EACH),
    ]


def _one(crew, server, contender, processes, setting, tell):
    """One measurement: limits that admit all calls and not one more, then one more of some callers."""
    what = f"{contender.name}: {processes} processes on {setting.name}"
    total = setting.calls * setting.passes
    load = exactly(total // setting.keys)
    with server.client() as client:
        client.flushall()
    names = contender.enrol(server.url, load, setting.keys + 1, progress=lambda _: tell(f"{what}, making keys", by=0))
    tell(what)
    outcomes = crew.run(contender, server, load, names, processes, setting.calls, setting.passes, setting.tasks)
    with contender.connect(server.url, load) as call:
        over = sum(call(caller) for caller in names[:-1][:20])
    first, later = (outcomes[0], outcomes[1:]) if setting.keys > 1 else (None, outcomes)
    found = {"contender": contender.name, "processes": processes, "setting": setting.name, "over": over}
    found["per_second"] = spread([outcome.per_second for outcome in later])
    found["server_cpu"] = spread([outcome.server_cpu for outcome in later]).middle
    found["first_look_per_second"] = first.per_second if first else None
    found["passes"] = [asdict(outcome) for outcome in outcomes]
    found["calls"], found["admitted"] = total, sum(outcome.admitted for outcome in outcomes)
    found["unanswered"] = sum(outcome.unanswered for outcome in outcomes)
    found["exact"] = contender.kind == "floor" or _exact(contender, found["admitted"], over, total)
    return found


def _exact(contender, admitted, over, total):
    """All that were to be admitted and nothing else; of one that holds units in advance: nothing beyond."""
    return (admitted, over) == (total, 0) if contender.exact else admitted + over <= total


def over_processes(crew, chosen):
    """All limiters in all settings, and the floor where nobody has to be told of keys."""
    plan = []
    for setting in chosen:
        # Leases are for hot keys.
        entered = [floors.EVALSHA, ours.CHECK, *LEASED] if setting.keys == 1 else [ours.CHECK]
        entered += peers.MAIN
        plan += [(one, n, setting) for one in entered for n in PROCESSES]
    with host.placed_server(host.MAIN, host.FREE) as server, steps("throughput", len(plan)) as tell:
        return [_one(crew, server, contender, processes, setting, tell) for contender, processes, setting in plan]


def by_setting(runs):
    """Runs of each setting, in their order."""
    found = {}
    for run in runs:
        found.setdefault(run["setting"], []).append(run)
    return found


def measure(full=False):
    gathered = {name: tasks.measure(number, full) for name, number in TASKS.items()}
    with workers(max(PROCESSES)) as crew:
        processes = over_processes(crew, settings(full))
    return {**gathered, "processes": processes, "full_server": full_server.measure(full)}


def figures(found):
    for name, number in TASKS.items():
        yield from tasks.figures(found[name], number)
    inexact = sum(not one["exact"] for one in found["processes"] if one["contender"] == ours.CHECK.name)
    yield Figure(f"{host.MAIN}: runs over processes whose totals were not exact", inexact, "runs", target=0)
    leased = [one for one in found["processes"] if one["contender"] == ours.LEASED.name]
    if leased:
        beyond = sum(max(0, one["admitted"] + one["over"] - one["calls"]) for one in leased)
        yield Figure(f"{host.MAIN}: leased checks over processes beyond the plan", beyond, "checks", target=0)
    for setting, runs in by_setting(found["processes"]).items():
        what = f"{host.MAIN}: processes on {setting}"
        best, peer = (
            max((Spread(*run["per_second"]) for run in runs if run["contender"] in names), key=lambda one: one.middle)
            for names in ({ours.CHECK.name}, {one.name for one in peers.MAIN})
        )
        yield Figure.of(f"{what}: most checks per second", best, "/s", "higher")
        compared = Spread(best.low / peer.high, best.middle / peer.middle, best.high / peer.low)
        yield Figure.of(f"{what}: most checks per second / the fastest peer", compared, better="higher")
    yield from full_server.figures(found["full_server"])


def tables(found):
    for name, number in TASKS.items():
        yield tasks.table(found[name], number)
    for setting, runs in by_setting(found["processes"]).items():
        title = f"processes on {setting} ({host.MAIN}): checks/s, and the share of its core that the server used"
        title += "; below, with the first look at each key" if runs[0]["first_look_per_second"] else ""
        table = Table(title=title, title_justify="left")
        table.add_column("contender")
        for processes in PROCESSES:
            table.add_column(f"{processes}", justify="right", no_wrap=True)
        table.add_column("admitted / exact maximum", justify="right")
        for name in dict.fromkeys(run["contender"] for run in runs):
            mine = [run for run in runs if run["contender"] == name]
            cells = [f"{run['per_second'][1]:,.0f} ({run['server_cpu']:.0%})" for run in mine]
            table.add_row(name, *cells, _totals(mine))
            if mine[0]["first_look_per_second"]:
                table.add_row("  first looks", *(f"{run['first_look_per_second']:,.0f}" for run in mine), "")
        yield table
    yield from full_server.tables(found["full_server"])


def _totals(runs):
    if runs[0]["contender"] == floors.EVALSHA.name:
        return ""
    if all(run["exact"] for run in runs):
        least = min(run["admitted"] for run in runs)
        return f"[green]none beyond, at least {least:,}" if runs[0]["contender"] == ours.LEASED.name else "[green]exact"
    wrong = [f"{run['admitted']:,}+{run['over']} / {run['calls']:,}" for run in runs if not run["exact"]]
    return "[red]" + ", ".join(wrong)


if __name__ == "__main__":
    from alone import run

    run(measure, figures, tables)
