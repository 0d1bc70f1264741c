"""Checks per second: of asyncio tasks, of 1, 2, 4 and 8 processes with exact totals, and of a server that is full."""

from dataclasses import asdict, dataclass

from rich.table import Table

from benchmarks.contenders import floors, ours, peers
from benchmarks.contenders.contender import exactly
from benchmarks.report import plots
from benchmarks.report.progress import steps
from benchmarks.report.results import Figure, Spread
from benchmarks.suite import full_server, host, tasks
from benchmarks.suite.rounds import spread
from benchmarks.suite.workers import workers

PROCESSES = (1, 2, 4, 8)
TASKS = {"tasks": 64, "alone": 1}
"""Of one event loop: many, whose checks are sent in one batch, and one, whose check should not wait for others."""
IN_EACH = TASKS["tasks"]


@dataclass(frozen=True)
class Setting:
    """How processes are measured: on how many keys, and with how many asyncio tasks in each (0: none, no asyncio).

    All calls are made in three passes. On many keys the first pass, of the first check of each key, counts by itself.
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


def _one(pool, server, contender, processes, setting, step):
    """One measurement: limits that admit all calls and not one more, then one more of some callers."""
    what = f"{contender.name}: {processes} processes on {setting.name}"
    total = setting.calls * setting.passes
    load = exactly(total // setting.keys)
    with server.client() as client:
        client.flushall()
    names = contender.enrol(server.url, load, setting.keys + 1, progress=lambda _: step(f"{what}, making keys", by=0))
    step(what)
    outcomes = pool.run(contender, server, load, names, processes, setting.calls, setting.passes, setting.tasks)
    with contender.connect(server.url, load) as call:
        over = sum(call(caller) for caller in names[:-1][:20])
    first, later = (outcomes[0], outcomes[1:]) if setting.keys > 1 else (None, outcomes)
    admitted = sum(outcome.admitted for outcome in outcomes)
    return {
        "contender": contender.name,
        "processes": processes,
        "setting": setting.name,
        "per_second": spread([outcome.per_second for outcome in later]),
        "first_checks_per_second": first.per_second if first else None,
        "server_cpu": spread([outcome.server_cpu for outcome in later]).middle,
        "passes": [asdict(outcome) for outcome in outcomes],
        "calls": total,
        "admitted": admitted,
        "over": over,
        "unanswered": sum(outcome.unanswered for outcome in outcomes),
        "exact": contender.kind == "floor" or _exact(contender, admitted, over, total),
    }


def _exact(contender, admitted, over, total):
    """All that were to be admitted and nothing else; of one that holds units in advance: nothing beyond."""
    return (admitted, over) == (total, 0) if contender.exact else admitted + over <= total


def over_processes(pool, chosen):
    """All limiters in all settings, and the floor where there is one key."""
    plan = []
    for setting in chosen:
        # Leases are for hot keys.
        contenders = [floors.EVALSHA, ours.CHECK, ours.LEASED] if setting.keys == 1 else [ours.CHECK]
        plan += [(one, n, setting) for one in [*contenders, *peers.MAIN] for n in PROCESSES]
    with host.placed_server(host.MAIN, host.FREE) as server, steps("throughput", len(plan)) as step:
        return [_one(pool, server, contender, processes, setting, step) for contender, processes, setting in plan]


def by_setting(runs):
    """Runs of each setting, in their order."""
    groups = {}
    for run in runs:
        groups.setdefault(run["setting"], []).append(run)
    return groups


def measure(full=False):
    by_tasks = {name: tasks.measure(number, full) for name, number in TASKS.items()}
    with workers(max(PROCESSES)) as pool:
        processes = over_processes(pool, settings(full))
    return {**by_tasks, "processes": processes, "full_server": full_server.measure(full)}


def figures(result):
    for name, number in TASKS.items():
        yield from tasks.figures(result[name], number)
    inexact = sum(not one["exact"] for one in result["processes"] if one["contender"] == ours.CHECK.name)
    yield Figure(f"{host.MAIN}: runs over processes whose totals were not exact", inexact, "runs", target=0)
    leased = [one for one in result["processes"] if one["contender"] == ours.LEASED.name]
    if leased:
        beyond = sum(max(0, one["admitted"] + one["over"] - one["calls"]) for one in leased)
        yield Figure(f"{host.MAIN}: leased checks over processes beyond the plan", beyond, "checks", target=0)
    for setting, runs in by_setting(result["processes"]).items():
        what = f"{host.MAIN}: processes on {setting}"
        best, peer = (
            max((Spread(*run["per_second"]) for run in runs if run["contender"] in names), key=lambda one: one.middle)
            for names in ({ours.CHECK.name}, {one.name for one in peers.MAIN})
        )
        yield Figure.of(f"{what}: most checks per second", best, "/s", "higher")
        compared = Spread(best.low / peer.high, best.middle / peer.middle, best.high / peer.low)
        yield Figure.of(f"{what}: most checks per second / the fastest peer", compared, better="higher")
    yield from full_server.figures(result["full_server"])


def tables(result):
    for name, number in TASKS.items():
        yield tasks.table(result[name], number)
    for setting, runs in by_setting(result["processes"]).items():
        title = f"processes on {setting} ({host.MAIN}): checks/s, and the share of its core that the server used"
        title += "; below, with the first check of each key" if runs[0]["first_checks_per_second"] else ""
        table = Table(title=title, title_justify="left")
        table.add_column("contender")
        for processes in PROCESSES:
            table.add_column(f"{processes}", justify="right", no_wrap=True)
        table.add_column("admitted / exact maximum", justify="right")
        for name in dict.fromkeys(run["contender"] for run in runs):
            row = [run for run in runs if run["contender"] == name]
            cells = [f"{run['per_second'][1]:,.0f} ({run['server_cpu']:.0%})" for run in row]
            table.add_row(name, *cells, _totals(row))
            if row[0]["first_checks_per_second"]:
                table.add_row("  first checks", *(f"{run['first_checks_per_second']:,.0f}" for run in row), "")
        yield table
    yield from full_server.tables(result["full_server"])


def _totals(runs):
    if runs[0]["contender"] == floors.EVALSHA.name:
        return ""
    if all(run["exact"] for run in runs):
        least = min(run["admitted"] for run in runs)
        return f"[green]none beyond, at least {least:,}" if runs[0]["contender"] == ours.LEASED.name else "[green]exact"
    wrong = [f"{run['admitted']:,}+{run['over']} / {run['calls']:,}" for run in runs if not run["exact"]]
    return "[red]" + ", ".join(wrong)


def plot(plt, result):
    """A panel for each setting of processes, and one for the full server."""
    settings_run = by_setting(result["processes"])
    panels = len(settings_run) + 1
    figure, row = plt.subplots(1, panels, figsize=(3.6 * panels, 4.4), squeeze=False)
    for axes, (setting, runs) in zip(row[0], settings_run.items(), strict=False):
        for name in dict.fromkeys(run["contender"] for run in runs):
            x, y = zip(*((r["processes"], r["per_second"][1]) for r in runs if r["contender"] == name), strict=True)
            axes.plot(x, y, label=name, **plots.line_style(name))
        axes.set_title(setting, loc="left")
    filled = row[0][-1]
    for number, (name, runs) in enumerate(full_server.lines(result["full_server"])):
        x, y = zip(*((run["processes"], run["per_second"][1]) for run in runs), strict=True)
        filled.plot(x, y, label=name, **plots.other_style(number))
    filled.set_title("a full server, prepared checks", loc="left")
    for axes in row[0]:
        axes.set_xticks(PROCESSES)
        axes.set_xlabel("processes")
        axes.set_yscale("log")  # leased checks are decided in process: ten times as many and more
    row[0][0].set_ylabel("checks per second (log)")
    for axes in (row[0][0], filled):
        axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(-0.05, -0.22))
    figure.tight_layout()
    return figure
