"""The fault suite as one command: `python -m chaos [--seed N] [--only NAME ...]`, with `tests` on the path.

Each run leaves its history in results/chaos, the suite its results in results/. A whole run writes docs/reliability.md.
"""

import argparse
import json
import math
import random
import sys
import time
from pathlib import Path

from helpers.servers import NAMES

from benchmarks.report.progress import console, steps
from benchmarks.report.results import FOLDER
from benchmarks.suite import host
from chaos import checker, report
from chaos.bugs import BUGS
from chaos.history import read
from chaos.run import POLICIES, Run, judge
from chaos.scenarios import SCENARIOS

HISTORIES = FOLDER / "chaos"
ATTEMPTS = 3


def chosen_runs(options):
    """(scenario, policy) of the runs that were asked for."""
    for number, scenario in enumerate(SCENARIOS.values()):
        if scenario.name in options.only if options.only else not (options.short and scenario.is_long):
            policies = [policy for policy in scenario.policies if policy in options.policy]
            if options.short:
                policies = policies[number % len(policies) :][:1]
            yield from ((scenario, policy) for policy in policies)


def executed(run):
    """The history of a run. What keeps one from being executed is none of its claims: it is tried once more."""
    try:
        return run.execute()
    except (RuntimeError, EOFError) as error:
        console.print(f"       once more: {type(error).__name__}: {error}", highlight=False, markup=False)
        return run.again().execute()


def run_one(scenario, policy, seed, server, progress):
    """Execute a run, and print what came of it. Return its summary."""
    began, attempts = time.monotonic(), 0
    while True:
        attempts += 1
        run = Run(scenario, seed, policy, server, HISTORIES, progress=progress)
        history = executed(run)
        verdicts = judge(scenario, history)
        broken = [verdict for verdict in verdicts if not verdict.holds]
        # Times are those of the best attempt, for the machine may be busy; all else must hold in each.
        if attempts == ATTEMPTS or not broken or any(verdict.claim not in checker.TIMED for verdict in broken):
            break
    words = "[red]BROKEN[/]" if broken else "[green]holds[/] "
    console.print(f"{words} {scenario.name}, {policy}: {len(history.checks):,} checks", highlight=False)
    for verdict in broken:
        measured = "never" if verdict.measured == math.inf else f"{verdict.measured:g} {verdict.unit}"
        console.print(f"       {verdict.claim}: {measured}, bound {verdict.bound:g}; {run.path}", highlight=False)
    about = report.summary(scenario, history, verdicts, run.path, time.monotonic() - began)
    return about | {"attempts": attempts}


def judged_again(result):
    """Results of an earlier run, its histories held against the present bounds."""
    for about in result["runs"]:
        scenario, history = SCENARIOS[about["scenario"]], read(about["history"])
        verdicts = judge(scenario, history)
        about.update(report.summary(scenario, history, verdicts, about["history"], about["seconds"]))
    return result


def find_bug(bug, seed, server, progress):
    """Execute a run with a bug, and print whether its claim is broken. Return what the report needs."""
    scenario = SCENARIOS[bug.scenario]
    for _ in range(ATTEMPTS if bug.claim in checker.TIMED else 1):
        history = executed(Run(scenario, seed, bug.policy, server, HISTORIES, bug=bug.name, progress=progress))
        (verdict,) = (verdict for verdict in judge(scenario, history) if verdict.claim == bug.claim)
        if not verdict.holds:
            break
    words = "[red]NOT FOUND[/]" if verdict.holds else "[green]found[/] "
    console.print(f"{words} {bug.name}: {bug.claim} {verdict.measured:g}, bound {verdict.bound:g}", highlight=False)
    about = {"bug": bug.name, "scenario": bug.scenario, "policy": bug.policy, "claim": bug.claim}
    return about | {"measured": min(verdict.measured, 1e9), "bound": verdict.bound, "found": not verdict.holds}


def write_result(result):
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"chaos-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m chaos", description="Break things, and check what was decided.")
    parser.add_argument("--seed", type=int, help="of an earlier run, to repeat it (default: a new one)")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=list(SCENARIOS), help="these scenarios alone")
    parser.add_argument("--policy", nargs="+", choices=POLICIES, default=list(POLICIES))
    parser.add_argument("--server", choices=NAMES, default=NAMES[0])
    parser.add_argument("--short", action="store_true", help="leave out what takes long; one policy for each scenario")
    parser.add_argument("--bugs", action="store_true", help="seeded bugs as well, each of which must be found")
    parser.add_argument(
        "--write", type=Path, metavar="DOCUMENT", help="write the report here, with its plots beside it"
    )
    parser.add_argument("--result", type=Path, help="run nothing; judge the histories of an earlier run again")
    options = parser.parse_args(arguments)
    if options.result:
        result = judged_again(json.loads(options.result.read_text()))
    else:
        result = execute(options)
        console.print(f"written: {write_result(result)}", highlight=False)
    if options.write:
        for path in report.write(result, SCENARIOS, options.write):
            console.print(f"written: {path}", highlight=False)
    broken = sum(not verdict["holds"] for run in result["runs"] for verdict in run["verdicts"])
    missed = sum(not bug["found"] for bug in result["bugs"])
    console.print(f"{broken} claims broken, {missed} seeded bugs not found", highlight=False)
    return 1 if broken or missed else 0


def execute(options):
    """Execute all that was asked for; return the results."""
    began = time.monotonic()
    seed = random.SystemRandom().randrange(1_000_000) if options.seed is None else options.seed
    chosen = list(chosen_runs(options))
    bugs = list(BUGS.values()) if options.bugs else []
    console.print(f"seed {seed}: {len(chosen)} runs on {options.server}, {len(bugs)} seeded bugs", highlight=False)
    machine = host.description() | {"servers": host.server_descriptions()}
    with steps("chaos", len(chosen) + len(bugs)) as step:

        def next_run(what):
            step(what)
            return (lambda what: step(what, 0)) if console.is_terminal else (lambda _what: None)

        runs = [
            run_one(scenario, policy, seed, options.server, next_run(f"{scenario.name}, {policy}"))
            for scenario, policy in chosen
        ]
        found = [find_bug(bug, seed, options.server, next_run(f"bug: {bug.name}")) for bug in bugs]
    return {
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seed": seed,
        "server": options.server,
        "machine": machine,
        "seconds": round(time.monotonic() - began, 1),
        "runs": runs,
        "bugs": found,
    }


if __name__ == "__main__":
    sys.exit(main())
