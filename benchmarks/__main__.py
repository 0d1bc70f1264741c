"""The benchmarks as one command: `python benchmarks [--full] [--only PART ...]`.

Results go to results/, progress to the terminal. With `--document RESULT` nothing is measured: docs/performance.md and
its plots are written from the results of an earlier run.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if not __package__:  # `python benchmarks` has this folder on the path, not the one above it
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.report import document, machines, plots
from benchmarks.report.progress import console
from benchmarks.report.results import FOLDER, figures_table, save
from benchmarks.suite import host, latency
from benchmarks.suite.parts import PARTS

DOCUMENT = host.ROOT / "docs" / "performance.md"


def measure_latency(full):
    """Run pytest-benchmark, which prints its tables itself. Return its results, and whether a test failed."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "latency.json")
        command = [sys.executable, "-m", "pytest", str(host.ROOT / "benchmarks" / "tests" / "test_latency.py")]
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


def measure(part, full):
    """Measure a part and print its tables. Return what goes into the results, its figures, and an error or None."""
    if part == "latency":
        entries, failed = measure_latency(full)
        console.print(machines.table("CPU time of a check on this machine", latency.headlines(entries)))
        return entries, list(latency.figures(entries)), "a call failed, see there" if failed else None
    result = PARTS[part].module.measure(full)
    for table in PARTS[part].module.tables(result):
        console.print(table)
    return result, list(PARTS[part].module.figures(result)), None


def measure_all(chosen, full):
    """Measure the parts, write the results and the plots. Return what failed: part -> why."""
    began = time.monotonic()
    machine = host.description() | {"servers": host.server_descriptions(), "full": full}
    console.print(host.in_words(machine), markup=False, highlight=False)
    results, figures, failed, seconds = {}, [], {}, {}
    for part in chosen:
        console.rule(part, align="left")
        started = time.monotonic()
        try:
            results[part], its_figures, error = measure(part, full)
        except Exception as exception:  # noqa: BLE001 - the other parts are worth measuring
            console.print_exception()
            error = f"{type(exception).__name__}: {exception}"
        else:
            figures += its_figures
        if error:
            failed[part] = error
        seconds[part] = round(time.monotonic() - started, 1)
    console.rule(align="left")
    console.print(figures_table(figures))
    path = save(results, figures, machine | {"seconds": seconds, "failed": failed})
    try:
        for plot in plots.draw(results, PARTS, FOLDER):
            console.print(f"drawn: {plot}", highlight=False)
    except Exception as exception:  # noqa: BLE001 - the results are written
        console.print_exception()
        failed["plots"] = f"{type(exception).__name__}: {exception}"
    console.print(f"written: {path} ({time.monotonic() - began:.0f} s)", highlight=False)
    console.print("Compare two: python -m benchmarks.report.compare OLD NEW", highlight=False)
    return failed


def write_document(result, target):
    """Write the document; return the exit code."""
    try:
        files = document.write(result, target, PARTS)
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"cannot be written: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    for path in files:
        print(path)
    return 0


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python benchmarks", description="Measure, or write the document.")
    parser.add_argument(
        "--full", action="store_true", help="more rounds, calls, keys, and every algorithm of the peers"
    )
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=None, help="these parts alone")
    parser.add_argument("--document", type=Path, metavar="RESULT", help="measure nothing; write the document from this")
    parser.add_argument("--target", type=Path, default=DOCUMENT, help="the document to write (%(default)s)")
    options = parser.parse_args(arguments)
    if options.document:
        return write_document(options.document, options.target)
    chosen = options.only or [name for name, part in PARTS.items() if options.full or not part.long]
    failed = measure_all(chosen, options.full)
    if failed:
        sys.exit("\n".join(f"failed: {part}: {error}" for part, error in failed.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
