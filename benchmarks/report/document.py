"""docs/performance.md, written from the result of a run. No number is typed."""

from rich.text import Text

from benchmarks.report import machines, plots
from benchmarks.report.results import format_quartiles, format_target, format_value, load


def _cell(value):
    return Text.from_markup(str(value)).plain.replace("|", "\\|").replace("\n", " ")


def _rows(header, rows, numbers=()):
    """A table in Markdown; columns that are `numbers`, by their index, are aligned to the right."""
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
    machine = result["machine"]
    servers = "; ".join(f"{name}: {server['version']}" for name, server in machine["servers"].items())
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items() if version)
    facts = {
        "processor": f"{machine['processor']}, {machine['cores']} cores",
        "system": machine["system"],
        "Python": f"{machine['python']}; {packages}",
        "servers": servers,
        "commit": str(machine["commit"]).replace("+", ", with changes that are not committed"),
        "measured": f"{result['made']}, {'full' if machine.get('full') else 'short'} run",
        "load average before": str(machine.get("load", "unknown")),
        "duration": ", ".join(f"{part} {seconds:.0f} s" for part, seconds in machine.get("seconds", {}).items()),
    }
    yield from ("## Measured on", "")
    yield from _rows(("", "what"), facts.items())
    for part, reason in machine.get("failed", {}).items():
        yield from (f"**Failed in this run**: {part} ({reason}).", "")


def _targets(figures):
    """Missed ones first."""
    rows = sorted((figure for figure in figures if figure.target is not None), key=lambda figure: figure.reached)
    missed = sum(not figure.reached for figure in rows)
    yield from ("## Targets", "")
    yield from (f"{len(rows)} figures have a target: {len(rows) - missed} reached it, {missed} missed it.", "")
    cells = [
        (
            figure.name,
            format_value(figure.value, figure.unit),
            format_quartiles(figure),
            format_target(figure),
            "reached" if figure.reached else "**missed**",
        )
        for figure in rows
    ]
    yield from _rows(("figure", "value", "quartiles", "target", ""), cells, (1, 2, 3))


def _machines(result, parts, path):
    """Headlines of this machine beside those of the machines that were measured before."""
    for name, part in parts.items():
        if name in result and hasattr(part.module, "headlines"):
            yield from ("## By machine", "", part.module.HEADLINES, "")
            for table in machines.tables(machines.record(path, result, part.module.headlines(result[name]))):
                yield from _table(table)


def _part(name, part, result, drawn):
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
    yield from (f"python benchmarks --document results/{source.name}   # the file that it names", "```", "")
    yield (
        "`python benchmarks --only PART ...` measures parts, `python -m benchmarks.report.compare OLD.json NEW.json` "
        "shows whether it got slower. What each figure means, who is compared and how the peers are used: "
        "[benchmarks/README.md](../benchmarks/README.md). Compare only runs of one machine: ratios from different ones "
        "differ."
    )


def write(source, target, parts):
    """Write the document, with its plots and figures by machine in the folder beside it; return the files written.

    Raises OSError, ValueError, KeyError or TypeError if `source` is not a result of the suite.
    """
    result, figures = load(source)
    folder = target.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.svg"):
        old.unlink()
    drawn = {path.stem: path for path in plots.draw(result, parts, folder)}
    lines = ["# Performance", ""]
    lines += ["Written by `python benchmarks --document` from the results of one run; no number is typed by hand.", ""]
    lines += [*_machine(result), *_targets(figures), *_machines(result, parts, folder / "machines.json")]
    for name, part in parts.items():
        lines += _part(name, part, result, drawn)
    lines += _repeat(source)
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [target, *drawn.values()]
