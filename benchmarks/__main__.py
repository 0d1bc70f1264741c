"""The whole suite: `python benchmarks [--full] [--only PART ...]`. Results go to results/, progress to the terminal."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import exactness
import host
import instructions
import latency
import memory
import plots
import tail
import throughput
from progress import console
from report import FOLDER, figures_table, save

PARTS = {
    "exactness": exactness,
    "throughput": throughput,
    "memory": memory,
    "instructions": instructions,
    "tail": tail,
}


def measured_latency(full):
    """Run pytest-benchmark, which prints its tables itself. Return its results, and whether a test failed."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "latency.json")
        command = [sys.executable, "-m", "pytest", str(host.ROOT / "benchmarks" / "test_latency.py")]
        command += ["-q", "--no-header", "--benchmark-columns=median,iqr,min,max,rounds", "--benchmark-sort=min"]
        command += [f"--benchmark-json={output}", f"--rounds={100 if full else 30}"]
        command += ["--more-peers"] if full else []
        command += ["-W", "default:Not saving anything"]  # when all fails, the failures are the message
        failed = subprocess.run(command, cwd=host.ROOT, check=False).returncode != 0
        text = output.read_text() if output.exists() else ""  # pytest-benchmark leaves it empty when nothing ran
    entries = json.loads(text)["benchmarks"] if text else []
    for entry in entries:
        entry["stats"].pop("data", None)
    return entries, failed


def main():
    parser = argparse.ArgumentParser(prog="python benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--full", action="store_true", help="more rounds, calls, keys, and every algorithm of the peers"
    )
    choices = ["latency", *PARTS]
    parser.add_argument("--only", nargs="+", choices=choices, default=None, help="these parts alone")
    given = parser.parse_args()
    # A steady load takes a minute to say anything: left out of the short run.
    chosen = given.only or (choices if given.full else [part for part in choices if part != "tail"])
    began = time.monotonic()
    about = host.description() | {"servers": host.server_descriptions()}
    console.print(host.in_words(about), markup=False, highlight=False)
    found, numbers, failed = {}, [], False
    for part in chosen:
        console.rule(part, align="left")
        if part == "latency":
            found[part], failed = measured_latency(given.full)
            numbers += latency.figures(found[part])
            continue
        found[part] = PARTS[part].measure(given.full)
        for table in PARTS[part].tables(found[part]):
            console.print(table)
        numbers += PARTS[part].figures(found[part])
    console.rule(align="left")
    console.print(figures_table(numbers))
    path = save(found, numbers, about)
    for drawn in plots.draw(found, FOLDER):
        console.print(f"drawn: {drawn}", highlight=False)
    took = time.monotonic() - began
    console.print(f"written: {path} ({took:.0f} s). Compare two: python benchmarks/compare.py OLD NEW", highlight=False)
    if failed:
        sys.exit("a call of the latency part failed, see there")


if __name__ == "__main__":
    main()
