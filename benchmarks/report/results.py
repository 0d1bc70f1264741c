"""Results: figures that can be compared between runs, everything else beside them, as one JSON file."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

FOLDER = Path(__file__).resolve().parents[2] / "results"
SCHEMA = 1


class Spread(NamedTuple):
    """A median and the quartiles around it."""

    low: float
    middle: float
    high: float

    def times(self, factor):
        return Spread(*(value * factor for value in self))

    def __str__(self):
        return f"{self.low:.2f} - {self.high:.2f}"


@dataclass(frozen=True)
class Figure:
    """One number worth comparing.

    name    what it is, the same in every run
    value   the median where it was measured in rounds, with `low` and `high` as its quartiles
    unit    "x" for a ratio, else "us", "ms", "bytes", "/s", ...
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
    def of(cls, name, spread: Spread, unit="x", better="lower", target=None):
        return cls(name, spread.middle, unit, better, target, spread.low, spread.high)

    @property
    def reached(self):
        """Of a figure that has a target."""
        return self.value <= self.target if self.better == "lower" else self.value >= self.target


def format_value(value, unit):
    if value is None:
        return ""
    if unit == "x":
        return f"{value:.2f}x"
    digits = 1 if unit in {"us", "ms"} and value < 100 else 0
    return f"{value:,.{digits}f} {unit}".strip()


def format_target(figure):
    sign = "≤" if figure.better == "lower" else "≥"
    return f"{sign} {format_value(figure.target, figure.unit)}"


def format_quartiles(figure):
    return "" if figure.low is None else str(Spread(figure.low, figure.value, figure.high))


def figures_table(figures):
    """Those that have a target; the file has them all."""
    table = Table(title="targets", title_justify="left", title_style="bold")
    table.add_column("figure")
    for column in ("value", "quartiles", "target", ""):
        table.add_column(column, justify="right", no_wrap=True)
    for figure in figures:
        if figure.target is None:
            continue
        verdict = "[green]reached" if figure.reached else "[red]missed"
        value = format_value(figure.value, figure.unit)
        table.add_row(figure.name, value, format_quartiles(figure), format_target(figure), verdict)
    return table


def save(parts, figures, machine):
    """Write results/<time>.json and results/latest.json; return the path of the first."""
    FOLDER.mkdir(exist_ok=True)
    content = {
        "schema": SCHEMA,
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine,
        "figures": [asdict(figure) for figure in figures],
        **parts,
    }
    text = json.dumps(content, indent=1) + "\n"
    path = FOLDER / f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.json"
    path.write_text(text)
    (FOLDER / "latest.json").write_text(text)
    return path


def load(path):
    """Read what `save` wrote. Raises ValueError for another file."""
    content = json.loads(path.read_text())
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise ValueError(f"{path} is not a result of this suite (schema {SCHEMA})")
    return content, [Figure(**figure) for figure in content["figures"]]
