"""Results: figures that can be compared between runs, everything else beside them, as one JSON file."""

import json
import time
from dataclasses import asdict, dataclass

import host
from rich.table import Table
from rounds import Spread

FOLDER = host.ROOT / "results"
SCHEMA = 1


@dataclass(frozen=True)
class Figure:
    """One number worth comparing.

    name    what it is, the same in every run
    value   the median where it was taken in rounds, with `low` and `high` as its quartiles
    better  "lower" or "higher"
    target  what is to be reached; None if nothing is promised
    """

    name: str
    value: float
    unit: str
    better: str = "lower"
    target: float | None = None
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, name, found: Spread, unit="x", better="lower", target=None):
        return cls(name, found.middle, unit, better, target, found.low, found.high)

    @property
    def reached(self):
        """Of a figure that has a target."""
        return self.value <= self.target if self.better == "lower" else self.value >= self.target


def shown(value, unit):
    if value is None:
        return ""
    if unit == "x":
        return f"{value:.2f}x"
    digits = 1 if unit in {"us", "ms"} and value < 100 else 0
    return f"{value:,.{digits}f} {unit}".strip()


def quartiles(figure):
    return "" if figure.low is None else f"{figure.low:.2f} - {figure.high:.2f}"


def figures_table(figures):
    """Those that have a target; the file has them all."""
    table = Table(title="what is to be reached", title_justify="left", title_style="bold")
    table.add_column("figure")
    for column in ("value", "quartiles", "target", ""):
        table.add_column(column, justify="right", no_wrap=True)
    for figure in figures:
        if figure.target is None:
            continue
        sign = "≤" if figure.better == "lower" else "≥"
        verdict = "[green]reached" if figure.reached else "[red]not yet"
        target = f"{sign} {shown(figure.target, figure.unit)}"
        table.add_row(figure.name, shown(figure.value, figure.unit), quartiles(figure), target, verdict)
    return table


def save(parts, figures, about, path=None):
    """Write results/<time>.json and results/latest.json; return the path of the first."""
    FOLDER.mkdir(exist_ok=True)
    content = {
        "schema": SCHEMA,
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": about,
        "figures": [asdict(figure) for figure in figures],
        **parts,
    }
    text = json.dumps(content, indent=1) + "\n"
    path = path or FOLDER / f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.json"
    path.write_text(text)
    (FOLDER / "latest.json").write_text(text)
    return path


def load(path):
    """Read what `save` wrote. Raises ValueError for another file."""
    content = json.loads(path.read_text())
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise ValueError(f"{path} is not a result of this suite (schema {SCHEMA})")
    return content, [Figure(**figure) for figure in content["figures"]]
