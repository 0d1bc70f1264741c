"""Show whether it got slower: `python -m benchmarks.report.compare OLD.json NEW.json`.

The exit code is 1 if it did, 2 for files that cannot be compared.

Only figures that both files have are compared. A figure is worse when it moved the wrong way by more than 10 % (or
away from 0) and, where it was measured in rounds, the quartiles of the two do not overlap: else it is noise.
"""

import argparse
import sys
from pathlib import Path

from rich.table import Table

from benchmarks.report.progress import console
from benchmarks.report.results import format_value, load

TOLERANCE = 0.10


def change(old, new):
    """By how much `new` is worse than `old`: 0.25 is a quarter worse, negative is better."""
    if old.value == new.value:
        return 0.0
    worse, better = (new.value, old.value) if old.better == "lower" else (old.value, new.value)
    return round(worse / better - 1, 9) if better else float("inf")


def overlapping(old, new):
    return None not in (old.low, new.low) and old.low <= new.high and new.low <= old.high


def verdict(old, new, tolerance=TOLERANCE):
    by = change(old, new)
    if by > tolerance:
        return "noise" if overlapping(old, new) else "worse"
    # As much better as the tolerance is worse: 1/1.1 of it
    return "better" if by < 1 / (1 + tolerance) - 1 else ""


def table(rows):
    shape = Table(title="changes of more than 10 % are marked", title_justify="left")
    shape.add_column("figure")
    for column in ("old", "new", "worse by", ""):
        shape.add_column(column, justify="right", no_wrap=True)
    styles = {"worse": "red", "better": "green"}
    for old, new in rows:
        label = verdict(old, new)
        cells = (format_value(old.value, old.unit), format_value(new.value, new.unit), f"{change(old, new):+.1%}")
        shape.add_row(old.name, *cells, label, style=styles.get(label))
    return shape


def differences(old, new):
    """What makes two results hard to compare: other machines, packages, servers."""
    for name in ("processor", "cores", "system", "python", "packages", "servers"):
        before, after = old["machine"].get(name), new["machine"].get(name)
        if before != after:
            yield f"{name}: {before} -> {after}"


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report.compare", description=__doc__.partition("\n")[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    options = parser.parse_args(arguments)
    try:
        (old, old_figures), (new, new_figures) = load(options.old), load(options.new)
    except (OSError, ValueError, KeyError, TypeError) as error:
        console.print(f"cannot be compared: {error}", markup=False, soft_wrap=True)
        return 2
    for difference in differences(old, new):
        console.print(f"not the same {difference}", markup=False, soft_wrap=True)
    by_name = {figure.name: figure for figure in new_figures}
    rows = [(figure, other) for figure in old_figures if (other := by_name.get(figure.name))]
    if not rows:
        console.print("the two have no figure in common")
        return 2
    console.print(table(rows))
    worse = sum(verdict(*row) == "worse" for row in rows)
    console.print(f"{len(rows)} figures compared, {worse} worse")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
