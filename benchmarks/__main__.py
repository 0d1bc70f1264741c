"""The whole suite: `python benchmarks [--full] [--only PART ...]`. Results go to results/, progress to the terminal."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import host
import latency
import plots
from progress import console
from report import FOLDER, figures_table, save
from suite import PARTS


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


def measured(part, full):
    """Measure a part and print its tables. Return what to keep, its figures, and what went wrong or None."""
    if part == "latency":
        found, failed = measured_latency(full)
        return found, latency.figures(found), "a call failed, see there" if failed else None
    found = PARTS[part].module.measure(full)
    for table in PARTS[part].module.tables(found):
        console.print(table)
    return found, list(PARTS[part].module.figures(found)), None


def main():
    parser = argparse.ArgumentParser(prog="python benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--full", action="store_true", help="more rounds, calls, keys, and every algorithm of the peers"
    )
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=None, help="these parts alone")
    given = parser.parse_args()
    chosen = given.only or [name for name, part in PARTS.items() if given.full or not part.long]
    began = time.monotonic()
    about = host.description() | {"servers": host.server_descriptions(), "full": given.full}
    console.print(host.in_words(about), markup=False, highlight=False)
    parts, numbers, failed, seconds = {}, [], {}, {}
    for part in chosen:
        console.rule(part, align="left")
        started = time.monotonic()
        try:
            parts[part], figures, wrong = measured(part, given.full)
        except Exception as error:  # noqa: BLE001 - the other parts are worth measuring
            console.print_exception()
            wrong = f"{type(error).__name__}: {error}"
        else:
            numbers += figures
        if wrong:
            failed[part] = wrong
        seconds[part] = round(time.monotonic() - started, 1)
    console.rule(align="left")
    console.print(figures_table(numbers))
    path = save(parts, numbers, about | {"seconds": seconds, "failed": failed})
    try:
        for drawn in plots.draw(parts, FOLDER):
            console.print(f"drawn: {drawn}", highlight=False)
    except Exception as error:  # noqa: BLE001 - the results are written
        console.print_exception()
        failed["plots"] = f"{type(error).__name__}: {error}"
    took = time.monotonic() - began
    console.print(f"written: {path} ({took:.0f} s). Compare two: python benchmarks/compare.py OLD NEW", highlight=False)
    if failed:
        sys.exit("\n".join(f"failed: {part}: {wrong}" for part, wrong in failed.items()))


if __name__ == "__main__":
    main()
