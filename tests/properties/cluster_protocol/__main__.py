"""Explore at length, or print what each bug leads to."""

import argparse
import sys
import time

from properties.cluster_protocol import bugs
from properties.cluster_protocol.configurations import Configuration, everything
from properties.cluster_protocol.search import Found, Search


def main():
    """Exit with 1 if something is broken, or a bug is not found."""
    parser = argparse.ArgumentParser(prog="python -m properties.cluster_protocol", description=__doc__)
    parser.add_argument("--bugs", action="store_true", help="print each bug with the shortest trace to what it breaks")
    parser.add_argument("--checks", type=int, default=1, help="how often the gateway checks; 0 for no gateway")
    parser.add_argument("--attempts", type=int, default=2, help="how often an operation begins anew, and once")
    parser.add_argument("--only", default="", help="pairs in whose name this is")
    options = parser.parse_args()
    return print_bugs() if options.bugs else explore(options)


def say(*texts):
    """Write lines."""
    sys.stdout.writelines(f"{text}\n" for text in texts)
    sys.stdout.flush()


def explore(options):
    """Search all configurations."""
    total, began = [0, 0, 0, 0], time.process_time()
    for world, pair in everything():
        if options.only not in f"{world}: {pair}":
            continue
        search = Search(Configuration(world, pair, options.checks), max_attempts=options.attempts)
        try:
            result = search.run()
        except Found as found:
            say(f"{world}: {pair}: {found}", *lines(found.trace))
            return 1
        total = [before + more for before, more in zip(total, result, strict=True)]
        say(f"{result.states:9,} states {result.slots:6,} of the slots   {world}: {pair}")
    states, steps, slots, repaired = total
    say(
        f"{states:,} states, {steps:,} steps; {slots:,} states of the slots, each repaired alone: {repaired:,} states,",
        f"in each of which every operation worked alone; no violation; {time.process_time() - began:.0f} s",
    )
    return 0


def print_bugs():
    """Look for each bug."""
    missed = 0
    for name, seeded in (bugs.RULES | bugs.FURTHER | bugs.TRACES).items():
        missed += print_bug(f"{name}. Bug: {seeded.about}", seeded.search())
    for (step, guard), (world, operations) in bugs.GUARDS.items():
        bug = bugs.without_guard(step, guard)
        missed += print_bug(f"{step} without its guard of {guard}", Search(Configuration(world, operations, 0), bug))
    for step, (world, operations) in bugs.OWN_CLAIMS.items():
        bug = bugs.with_writes(step, bugs.whosever)
        missed += print_bug(f"{step} of whatever claim", Search(Configuration(world, operations, 0), bug))
    say(f"{missed} not found")
    return bool(missed)


def print_bug(title, search):
    """Print the trace of a bug; 1 if there is none."""
    say(f"\n{title}")
    try:
        search.run()
    except Found as found:
        say(*lines(found.trace), f"   => {found}")
        return 0
    say("   not found")
    return 1


def lines(trace):
    """A line for each step."""
    for name, request, reply in trace:
        outcome = "" if reply.done else "refused"
        yield f"   {name:9} {request.step:22} {outcome or ' '.join(map(shown, request.writes))}".rstrip()


def shown(write):
    """A write in short."""
    verb, field, operand = write
    return f"{verb} {' '.join(field[1:])} {value_shown(operand)}".replace("  ", " ") + ";"


def value_shown(value):
    """A value without tokens."""
    if hasattr(value, "digests"):
        digests = ",".join(f"{digest}:{until}" for digest, until in value.digests)
        return f"{value.state} plans={''.join(sorted(value.plans))} digests={digests}"
    if hasattr(value, "touched"):
        return f"touched={''.join(sorted(value.touched))}"
    if hasattr(value, "version"):
        return f"version={value.version}"
    if hasattr(value, "key"):
        return f"{value.key}:..."
    if value is None:
        return "gone"
    return "" if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], int) else str(value)


if __name__ == "__main__":
    sys.exit(main())
