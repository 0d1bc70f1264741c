"""Write docs/performance.md from a result: `python benchmarks/document.py results/<time>.json`. No number is typed."""

import argparse
import sys
from pathlib import Path

import host
import plots
from report import load, quartiles, shown
from rich.text import Text
from suite import PARTS

TARGET = host.ROOT / "docs" / "performance.md"


def _cell(value):
    return Text.from_markup(str(value)).plain.replace("|", "\\|").replace("\n", " ")


def _rows(header, rows, numbers=()):
    """A table in Markdown; columns that are `numbers`, by their place, go to the right."""
    yield "| " + " | ".join(map(_cell, header)) + " |"
    yield "|" + "|".join("--:" if at in numbers else "---" for at in range(len(header))) + "|"
    for row in rows:
        yield "| " + " | ".join(map(_cell, row)) + " |"
    yield ""


def _table(table):
    """One of the tables that the suite shows in a terminal; a line of text stays one."""
    if isinstance(table, str):
        yield from (_cell(table), "")
        return
    yield from (f"**{_cell(table.title)}**", "")
    columns = [list(column.cells) for column in table.columns]
    numbers = [at for at, column in enumerate(table.columns) if column.justify == "right"]
    yield from _rows([column.header for column in table.columns], zip(*columns, strict=True), numbers)


def _machine(result):
    about = result["machine"]
    servers = "; ".join(f"{name}: {server['version']}" for name, server in about["servers"].items())
    packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items() if version)
    facts = {
        "processor": f"{about['processor']}, {about['cores']} cores",
        "system": about["system"],
        "Python": f"{about['python']}; {packages}",
        "servers": servers,
        "commit": str(about["commit"]).replace("+", ", with changes that are not committed"),
        "measured": f"{result['made']}, {'full' if about.get('full') else 'short'} run",
        "load average before": str(about.get("load", "not known")),
        "took": ", ".join(f"{part} {seconds:.0f} s" for part, seconds in about.get("seconds", {}).items()),
    }
    yield from ("## Measured on", "")
    yield from _rows(("", "what"), facts.items())
    for part, wrong in about.get("failed", {}).items():
        yield from (f"**Failed in this run**: {part} ({wrong}).", "")


def _targets(figures):
    """Missed ones first."""
    aimed = sorted((figure for figure in figures if figure.target is not None), key=lambda figure: figure.reached)
    missed = sum(not figure.reached for figure in aimed)
    yield from ("## What was to be reached", "")
    yield from (f"{len(aimed)} figures have a target: {len(aimed) - missed} reached it, {missed} missed it.", "")
    rows = []
    for figure in aimed:
        sign = "≤" if figure.better == "lower" else "≥"
        target, value = shown(figure.target, figure.unit), shown(figure.value, figure.unit)
        said = "reached" if figure.reached else "**missed**"
        rows.append((figure.name, value, quartiles(figure), f"{sign} {target}", said))
    yield from _rows(("figure", "value", "quartiles", "target", ""), rows, (1, 2, 3))


def _part(name, result, drawn):
    part = PARTS[name]
    yield from (f"## {part.title}", "", part.about, "")
    if name not in result:
        yield from ("Not measured in this run.", "")
        return
    if name in drawn:
        yield from (f"![{part.title}](performance/{drawn[name].name})", "")
    for table in part.module.tables(result[name]):
        yield from _table(table)


def _repeat(source):
    yield from ("## How to repeat it", "")
    yield from ("```sh", "make bench-full")
    yield from (f"python benchmarks/document.py results/{source.name}   # the file that it names", "```", "")
    yield (
        "`python benchmarks --only PART ...` measures parts, `python benchmarks/compare.py OLD.json NEW.json` tells "
        "whether it got slower. What each figure means, who is compared and how the peers are used: "
        "[benchmarks/README.md](../benchmarks/README.md). Compare only runs of one machine: ratios from different ones "
        "differ."
    )


def written(source, target):
    """Write the document, and its plots into the folder beside it; return what was written."""
    result, figures = load(source)
    folder = target.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.svg"):
        old.unlink()
    drawn = {path.stem: path for path in plots.draw(result, folder)}
    lines = ["# Performance", ""]
    lines += ["Written by `python benchmarks/document.py` from the results of one run; no number is typed by hand.", ""]
    lines += [*_machine(result), *_targets(figures)]
    for name in PARTS:
        lines += _part(name, result, drawn)
    lines += _repeat(source)
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [target, *drawn.values()]


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("result", type=Path)
    parser.add_argument("--target", type=Path, default=TARGET, help="the file to write")
    given = parser.parse_args(arguments)
    try:
        files = written(given.result, given.target)
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"cannot be written: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    for path in files:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
