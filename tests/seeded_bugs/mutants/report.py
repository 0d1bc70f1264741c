"""Why mutants survive, as survivors.toml explains it, and the page that a run writes."""

import tomllib
from collections import Counter

from helpers.paths import ROOT

PAGE = ROOT / "docs" / "mutants.md"
EXPLAINED = ROOT / "tests" / "seeded_bugs" / "mutants" / "survivors.toml"
FAST = ("vectors", "histories", "checks at once")
"""What finds mutants before tests are asked."""
INTRODUCTION = """\
# Mutation test of the Lua

<!-- Written by `make mutants`. -->

Each file in `lua/` is changed in every small way that the tool knows: a comparison becomes another one, a number one
more or less, `and` becomes `or`, a branch is swapped, a statement is left out, a text is emptied, and so on. Each
change, a mutant, is put on a real server (Valkey) and has to be found, by the first of:

1. the [vectors](../lua/vectors.json), worked out on paper;
2. {histories} random histories, in which all replies and all that is stored are those of the exact model;
3. checks that are asked at once by `check_many.lua`, against the same asked one by one;
4. the tests in `tests/lua`.

A mutant that nothing finds has an explanation below, or `make mutants` fails. `make mutants SCRIPT=check` tries those
of one file; `SAMPLE=200 SEED=1` a part of all. {total} mutants compile; {killed} are found, **{share} %**.

| file | mutants | vectors | histories | at once | tests | not found |
|---|---:|---:|---:|---:|---:|---:|
"""


class Explanations(dict):
    """Why each survivor is none that a test could find, by its id."""

    @classmethod
    def read(cls):
        document = tomllib.loads(EXPLAINED.read_text(encoding="utf-8"))
        return cls({name: group["why"] for group in document["survivors"] for name in group["mutants"]})

    def faults(self, killed_by, names):
        """What is explained and is not there any more, or is found after all."""
        found = {mutant.id: killer for mutant, killer in killed_by.items() if killer is not None}
        gone = [f"{name}  there is no such mutant" for name in self if name not in names]
        return gone + [f"{name}  is found: {found[name]}" for name in self if name in found]


def page(killed_by, explanations, histories):
    """docs/mutants.md."""
    killed = sum(killer is not None for killer in killed_by.values())
    share = f"{100 * killed / len(killed_by):.1f}"
    text = INTRODUCTION.format(histories=histories, total=len(killed_by), killed=killed, share=share)
    for part in dict.fromkeys(mutant.part for mutant in killed_by):
        killers = [killer for mutant, killer in killed_by.items() if mutant.part == part]
        text += row(f"`{part}`", killers)
    text += row("all", list(killed_by.values()))
    text += "\n## Not found\n"
    survivors = [mutant for mutant, killer in killed_by.items() if killer is None]
    for why in dict.fromkeys(explanations.get(mutant.id, "Not explained.") for mutant in survivors):
        text += f"\n{why}\n\n"
        for mutant in survivors:
            if explanations.get(mutant.id, "Not explained.") == why:
                text += f"- `{mutant.part}`, line {mutant.line}: {mutant.change}\n"
    return text


def row(name, killers):
    counts = Counter(killer if killer in FAST else killer and "tests" for killer in killers)
    cells = [name, len(killers), *(counts[killer] for killer in (*FAST, "tests", None))]
    return f"| {' | '.join(map(str, cells))} |\n"
