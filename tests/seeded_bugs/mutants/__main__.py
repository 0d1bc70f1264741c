"""Mutation test of the Lua: `make mutants`. Changes each script in every small way, and asks the tests about each.

A change that no test notices has to be explained in survivors.toml; else this fails. A run of all mutants writes
docs/mutants.md.
"""

import argparse
import sys
import time
from collections import Counter
from random import Random

from seeded_bugs.mutants.sources import Sources

# From here on whatever reads scripts reads the copy: so these come after it.
SOURCES = Sources()

from seeded_bugs.mutants.killers import HISTORIES, Killers  # noqa: E402
from seeded_bugs.mutants.report import PAGE, Explanations, page  # noqa: E402
from seeded_bugs.mutants.tests import with_tests  # noqa: E402


def main():
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("--script", help="a file in lua/, such as check or inline/fast_path")
    parser.add_argument("--sample", type=int, help="so many mutants, chosen by --seed")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chosen = every = SOURCES.mutants()
    if options.script:
        if options.script not in SOURCES.texts:
            parser.error(f"--script: {options.script} is none of {', '.join(SOURCES.texts)}")
        chosen = [mutant for mutant in chosen if mutant.part == options.script]
    if options.sample and options.sample < len(chosen):
        chosen = sorted(Random(options.seed).sample(chosen, options.sample), key=every.index)
    started = time.process_time(), time.monotonic()
    killed_by = killers_of(chosen)
    say(f"{len(chosen)} mutants in {time.monotonic() - started[1]:.0f} s")
    explanations = Explanations.read()
    faults = explanations.faults(killed_by, {mutant.id for mutant in every})
    for survivor in (mutant for mutant, killer in killed_by.items() if killer is None):
        if survivor.id not in explanations:
            faults.append(f"{survivor.id}  lua/{survivor.part}.lua:{survivor.line}  {survivor.change}")
    if len(chosen) == len(every):
        PAGE.write_text(page(killed_by, explanations, HISTORIES), encoding="utf-8")
    killed = sum(killer is not None for killer in killed_by.values())
    say(f"killed {killed} of {len(chosen)} ({100 * killed / len(chosen):.1f} %)")
    if faults:
        say("not explained in tests/seeded_bugs/mutants/survivors.toml, or no longer so:")
    for fault in faults:
        say(f"  {fault}")
    return 1 if faults else 0


def killers_of(chosen):
    """{mutant: what finds it, None if nothing does}: first by what is fast, then by tests."""
    killed_by, killers = {}, Killers()
    try:
        for number, mutant in enumerate(chosen, 1):
            with SOURCES.mutated(mutant):
                found = (killers.killer(script) for script in SOURCES.scripts_with(mutant.part))
                killed_by[mutant] = next(filter(None, found), None)
            if number % 500 == 0:
                say(f"{number} of {len(chosen)}: {Counter(killed_by.values())[None]} left for the tests")
    finally:
        killers.stop()

    def ask_tests(killer):
        for mutant in [mutant for mutant in chosen if killed_by[mutant] is None]:
            with SOURCES.mutated(mutant):
                killed_by[mutant] = killer(SOURCES.scripts_with(mutant.part))

    if with_tests(SOURCES, ask_tests):
        raise SystemExit("mutants: the tests do not pass")
    return killed_by


def say(text):
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
