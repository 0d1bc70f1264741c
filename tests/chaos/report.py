"""docs/reliability.md and its plots, written from the results of a run of the suite. No number is typed."""

import math
import re
from collections import Counter

from benchmarks.report.drawing import pyplot
from chaos import checker
from chaos.history import read

SECOND_US = 1_000_000
BIN_US = 100_000
KINDS = {
    "admitted by Redis": "#0b6e4f",
    "admitted without it": "#f2a104",
    "denied": "#9aa5b1",
    "503": "#c2185b",
}
"""What the timelines show, with their colours."""


def kind_of(check):
    if check.allowed:
        return "admitted without it" if check.is_degraded else "admitted by Redis"
    return "503" if check.is_degraded or check.reason == "CANCELLED" else "denied"


def percentile(values, share):
    return values[min(len(values) - 1, math.ceil(share * len(values)) - 1)] if values else 0


def latencies(history):
    """(p50, p99) in microseconds before, during and after the fault; all before where there was none."""
    begin, end = history.fault or (math.inf, math.inf)
    phases = {"before": [], "during": [], "after": []}
    for check in history.checks:
        phase = "before" if check.received_us < begin else "during" if check.sent_us < end else "after"
        phases[phase].append(check.received_us - check.sent_us)
    return {
        phase: (percentile(sorted(values), 0.5), percentile(sorted(values), 0.99))
        for phase, values in phases.items()
        if values
    }


def summary(scenario, history, verdicts, path, seconds):
    """What the results keep of a run."""
    return {
        "scenario": scenario.name,
        "policy": history.run["policy"],
        "seed": history.run["seed"],
        "server": history.run["server"],
        "history": str(path),
        "seconds": seconds,
        "checks": len(history.checks),
        "kinds": Counter(kind_of(check) for check in history.checks),
        "causes": Counter(str(check.cause) for check in history.checks if kind_of(check) == "503"),
        "latencies": latencies(history),
        "longest_us": checker.longest_us(history),
        "recovery_ms": min(checker.recovery_us(history) / 1000, 1e9),
        "verdicts": [vars(verdict) | {"holds": verdict.holds} for verdict in verdicts],
    }


def slug(name):
    """The name of a file, and in small letters the link to a heading as GitHub makes it."""
    return re.sub(r"\W+", "-", name.replace("'", ""))


def number(value):
    """A number for readers; no fraction where it says nothing."""
    if value >= 1e9:
        return "never"
    return f"{value:,.0f}" if value == int(value) or value >= 100 else f"{value:,.1f}"


def timelines(name, runs, folder):
    """Draw the runs of a scenario, one above the other, into `folder`; return the file's name, None if it cannot."""
    plt = pyplot()
    if plt is None:
        return None
    figure, axes = plt.subplots(len(runs), squeeze=False, figsize=(8, 1.9 * len(runs)), sharex=True)
    for axis, run in zip(axes[:, 0], runs, strict=True):
        _timeline(axis, read(run["history"]), run["policy"])
    axes[-1, 0].set_xlabel("seconds")
    axes[0, 0].legend(loc="upper center", bbox_to_anchor=(0.5, 1.3), ncols=len(KINDS) + 1, frameon=False, fontsize=8)
    path = folder / f"{slug(name)}.svg"
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    return path.name


def _timeline(axis, history, policy):
    first = min(check.received_us for check in history.checks)
    bins = (max(check.received_us for check in history.checks) - first) // BIN_US + 1
    counts = {kind: [0] * bins for kind in KINDS}
    for check in history.checks:
        counts[kind_of(check)][(check.received_us - first) // BIN_US] += 1
    times = [at * BIN_US / SECOND_US for at in range(bins)]
    axis.stackplot(times, counts.values(), labels=counts.keys(), colors=KINDS.values(), step="post", linewidth=0)
    for begin, end in zip(history.of("fault begins"), history.of("fault ends"), strict=False):
        span = [(at - first) / SECOND_US for at in (begin.at_us, end.at_us)]
        axis.axvspan(*span, color="#1f2933", alpha=0.12, linewidth=0)
    for event in history.of("revoked"):
        axis.axvline((event.at_us - first) / SECOND_US, color="#1f2933", linestyle=":", linewidth=1)
    axis.set_ylabel(f"{policy}\nchecks per 0.1 s", fontsize=8)
    axis.set_xlim(0, times[-1])


def _table(header, rows, numbers=()):
    yield "| " + " | ".join(header) + " |"
    yield "|" + "|".join("--:" if at in numbers else "---" for at in range(len(header))) + "|"
    for row in rows:
        yield "| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |"
    yield ""


def _verdict_cells(run):
    by_claim = {verdict["claim"]: verdict for verdict in run["verdicts"]}

    def cell(claim):
        verdict = by_claim.get(claim)
        return "" if verdict is None else f"{number(verdict['measured'])} of {number(verdict['bound'])}"

    claims = ("over-admission", "over quota", "extra executions", "late admissions", "recovery")
    return [cell(claim) for claim in claims]


ABOUT = """\
Each run breaks something under load: real servers, real processes of both twins, a fault on a schedule that a seed
decides. Every decision goes to a history file. A checker then holds the history against the exact model, and says for
each claim what was measured and what the bound is.

| claim | what is measured |
|---|---|
| over-admission | units that a key's bucket admitted beyond burst + rate x length, of the worst of all intervals; an \
admission happened at the server's time of the decision, or else between the sending of the check and its answer |
| over quota | units that a key admitted beyond its quota |
| extra executions | units that Redis counted for no check; a check of unknown outcome may have been counted once, or \
not at all |
| lost charges | units that Redis admitted, or was to be charged with afterwards, and does not count |
| late admissions | of a key that was revoked, checks that were sent after that was acknowledged, and admitted; "after \
1 s" leaves out those within a second, and by processes that are cut off with a former primary |
| deadline overruns | checks that took 10 ms longer than the deadline, beyond the time in which their process was kept \
from running |
| recovery | from the end of the fault to the first of 100 answers in a row that Redis made; the slowest process. \
Answers without Redis do not count while servers or the process itself were kept from running |
| wrong denials | 429 to a key that is far from its limits, 403 to a key that is valid |
| early denials | denials by a quota that has units left |
| raised | checks that raised |
| refused | 503 for an error that the server sent |
| drought | the longest time in which the key `bucket`, which is asked for all the time, admitted nothing |
| admitted without data | checks that were admitted after the data were lost, before they were restored |
| growth | of a process, from the middle of the run to its end |

On a busy machine times may be missed where nothing is wrong: a run in which recovery, deadline overruns or drought
alone break is made again, twice at most. All else has to hold in each attempt.

Where the bound is not 0, it is what [the promises](promises.md) publish for that fault, computed from the history.
"""


def write(result, scenarios, target):
    """Write the document and the plots beside it; return the files written."""
    folder = target.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.svg"):
        old.unlink()
    runs = {}
    for run in result["runs"]:
        runs.setdefault(run["scenario"], []).append(run)
    lines = ["# Reliability", "", "Written by `make chaos`; no number is typed by hand.", "", ABOUT]
    lines += [*_outcome(result), *_environment(result), *_bugs(result), *_repeat(result)]
    written = [target]
    for name, its_runs in runs.items():
        plot = timelines(name, its_runs, folder)
        lines += _scenario(scenarios[name], its_runs, plot)
        written += [folder / plot] if plot else []
    target.write_text("\n".join(lines).rstrip("\n") + "\n", encoding="utf-8")
    return written


def _outcome(result):
    runs = result["runs"]
    broken = [run for run in runs if not all(verdict["holds"] for verdict in run["verdicts"])]
    checks = sum(run["checks"] for run in runs)
    yield from ("## Outcome", "")
    yield from (f"{len(runs)} runs, {checks:,} checks. All claims held in {len(runs) - len(broken)} of them.", "")
    header = (
        "run",
        "policy",
        "",
        "over-admission",
        "over quota",
        "extra executions",
        "late admissions",
        "recovery, ms",
    )
    rows = [
        (
            f"[{run['scenario']}](#{slug(run['scenario']).lower()})",
            run["policy"],
            "**broken**" if run in broken else "holds",
            *_verdict_cells(run),
        )
        for run in [*broken, *(run for run in runs if run not in broken)]
    ]
    yield from _table(header, rows, range(3, 8))
    yield from ("Measured, of the bound; empty where nothing is claimed.", "")


def _environment(result):
    machine = result["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items() if version)
    yield from ("## Versions", "")
    facts = {
        "servers": "; ".join(f"{name}: {server['version']}" for name, server in machine["servers"].items()),
        "Python": f"{machine['python']}; {packages}",
        "machine": f"{machine['processor']}, {machine['cores']} cores, {machine['system']}",
        "commit": str(machine["commit"]).replace("+", ", with changes that are not committed"),
        "run": f"{result['made']}, seed {result['seed']}, on {result['server']}, {result['seconds']:.0f} s",
    }
    yield from _table(("", "what"), facts.items())


def _bugs(result):
    if not result["bugs"]:
        return
    yield from ("## What the checker finds", "")
    yield from ("Each bug is put into the processes of a run, which has to break the claim that is named.", "")
    rows = [
        (
            *(bug[field] for field in ("bug", "scenario", "policy", "claim")),
            *(number(bug[field]) for field in ("measured", "bound")),
            "found" if bug["found"] else "**not found**",
        )
        for bug in result["bugs"]
    ]
    yield from _table(("bug", "run", "policy", "claim", "measured", "bound", ""), rows, (4, 5))


def _repeat(result):
    yield from ("## How to repeat it", "")
    yield from ("```sh", "make chaos-short   # about three minutes, without this page")
    yield "make chaos         # about a quarter of an hour; writes this page"
    yield from (
        f'make chaos SEED={result["seed"]} ONLY="SIGSTOP"   # one of them, with the schedule of these runs',
        "```",
        "",
    )
    yield (
        "The seed decides when faults begin, how long they last, whom they meet, and in which order each process asks; "
        "what the machine's scheduler does is its own. Histories are in `results/chaos/`, one file for each run. "
        "The exit code is 1 if a claim did not hold, or a seeded bug was not found."
    )
    yield ""


def _attempts(run):
    return f", attempt {run['attempts']}" if run["attempts"] > 1 else ""


def _scenario(scenario, runs, plot):
    yield from (f"## {scenario.name}", "")
    yield from (f"**Claim.** {scenario.claim}", "")
    yield from (f"**Workload.** {scenario.workload}.", "")
    yield from (f"**Fault.** {scenario.fault[:1].upper()}{scenario.fault[1:]}.", "")
    for run in runs:
        counts = ", ".join(f"{count:,} {kind}" for kind, count in run["kinds"].items())
        causes = ", ".join(f"{count:,} {cause}" for cause, count in run["causes"].items())
        times = "; ".join(
            f"{phase} {number(p50 / 1000)} and {number(p99 / 1000)}" for phase, (p50, p99) in run["latencies"].items()
        )
        yield (
            f"**History, {run['policy']}** (seed {run['seed']}{_attempts(run)}). {run['checks']:,} checks: {counts}"
            f"{f'; without an answer: {causes}' if causes else ''}. "
            f"Latency, median and 99th percentile in ms: {times}; longest {number(run['longest_us'] / 1000)}."
        )
        yield ""
        rows = [
            (
                verdict["claim"],
                f"{number(verdict['measured'])} {verdict['unit']}".strip(),
                f"{number(verdict['bound'])} {verdict['unit']}".strip(),
                "holds" if verdict["holds"] else "**broken**",
            )
            for verdict in run["verdicts"]
        ]
        yield from _table(("verdict", "measured", "bound", ""), rows, (1, 2))
    if plot:
        yield from (f"![{scenario.name}](reliability/{plot})", "")
