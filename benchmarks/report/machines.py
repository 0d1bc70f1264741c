"""The headline figures of every machine that was measured: one JSON file, an entry for each machine.

Ratios differ between machines, because system calls and Python differ in cost; so each machine's are shown.
"""

import json

from rich.table import Table

from benchmarks.report.results import Spread


def name_of(machine):
    """Processor and cores: what stays the same when the kernel is updated."""
    return f"{machine['processor']}, {machine['cores']} cores"


def entry_of(result, headlines):
    """What the file keeps of a result. `headlines` maps a placement to ratios: title -> (low, median, high)."""
    machine = result["machine"]
    about = {"system": machine["system"], "measured": result["made"], "commit": machine["commit"]}
    return {**about, "headlines": headlines}


def record(path, result, headlines):
    """Put the headlines of a result in place of what the file has of its machine; return all entries."""
    entries = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    entries[name_of(result["machine"])] = entry_of(result, headlines)
    path.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    return entries


def tables(entries):
    """A table for each machine."""
    for name, entry in entries.items():
        about = f"{name}, {entry['system']}; {entry['measured'][:10]}, commit {entry['commit']}"
        yield table(f"CPU time of a check on {about}", entry["headlines"])


def table(title, headlines):
    """One row for each headline, one column for each placement of client and server."""
    made = Table(title=title, title_justify="left")
    made.add_column("ratio (quartiles)")
    for placement in headlines:
        made.add_column(placement, justify="right", no_wrap=True)
    for headline in dict.fromkeys(headline for row in headlines.values() for headline in row):
        made.add_row(headline, *(_cell(row.get(headline)) for row in headlines.values()))
    return made


def _cell(values):
    if values is None:
        return ""
    spread = Spread(*values)
    return f"{spread.middle:.2f}x" if spread.low is None else f"{spread.middle:.2f}x ({spread})"
