"""Run one part of the suite by itself: `python benchmarks/memory.py [--full]`."""

import argparse
import sys
from pathlib import Path

import host
from progress import console
from report import figures_table, save


def run(measure, figures, tables):
    parser = argparse.ArgumentParser()
    parser.add_argument("--full", action="store_true", help="more rounds, more calls, every algorithm of the peers")
    full = parser.parse_args().full
    about = host.description() | {"servers": host.server_descriptions(), "full": full}
    found = measure(full)
    for table in tables(found):
        console.print(table)
    numbers = list(figures(found))
    console.print(figures_table(numbers))
    console.print(f"written: {save({Path(sys.argv[0]).stem: found}, numbers, about)}")
