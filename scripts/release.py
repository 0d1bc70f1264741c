"""Build what is released, check it, and tag it: `make release-check`, `make release-tag`. See docs/releasing.md."""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
SMOKE_TEST = """
import ratelimit
from ratelimit import Limiter, Throttle, UsagePlan

with Limiter.embedded(deadline=2) as limiter:
    limiter.catalog.put_plan(UsagePlan("gold", Throttle("1/3600", 2), stages=["petstore/prod"]))
    key = limiter.catalog.create_key("me", plans=["gold"]).value
    statuses = [limiter.check(key, "petstore/prod", "GET /pets").status for _ in range(3)]
print(ratelimit.__version__, *statuses)
"""


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Return what a command prints; leave with what it says if it fails."""
    ran = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if ran.returncode:
        sys.exit(f"failed: {' '.join(map(str, command))}\n{ran.stdout}{ran.stderr}")
    return ran.stdout


def version(root: Path) -> str:
    """Return the version that the package names."""
    source = (root / "ratelimit" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE)
    return found[1] if found else sys.exit("ratelimit/__init__.py names no __version__")


def has_changes(changelog: str, number: str) -> bool:
    """Whether the changelog has a dated section for the version, with something in it."""
    heading = rf"^## {re.escape(number)} - \d{{4}}-\d\d-\d\d\n"
    section = re.search(heading + r"(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
    return section is not None and section[1].strip() != ""


def obstacles(root: Path) -> list[str]:
    """Return what keeps this commit from being tagged, each with what to do."""
    number = version(root)
    found = []
    if run("git", "status", "--porcelain", cwd=root).strip():
        found.append("the tree is not clean: commit or discard what `git status` shows")
    if not has_changes((root / "CHANGELOG.md").read_text(encoding="utf-8"), number):
        found.append(f"CHANGELOG.md has no section '## {number} - <date>': move what is under 'Unreleased' there")
    if run("git", "tag", "--list", f"v{number}", cwd=root).strip():
        found.append(f"the tag v{number} exists: raise __version__ in ratelimit/__init__.py")
    return found


def build(root: Path) -> list[Path]:
    """Build sdist and wheel into an empty dist/, and have twine look at what the index will show."""
    dist = root / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", dist, cwd=root)
    made = sorted(dist.iterdir())
    run(sys.executable, "-m", "twine", "check", "--strict", *made, cwd=root)
    return made


def try_wheel(wheel: Path, number: str) -> None:
    """Install the wheel into an environment of its own, and let it decide three requests from another folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        venv.create(folder / "venv", with_pip=True)
        python = folder / "venv" / "bin" / "python"
        run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"{wheel}[embedded]", cwd=folder)
        printed = run(python, "-I", "-W", "error", "-c", SMOKE_TEST, cwd=folder)
    if printed.split() != [number, "200", "200", "429"]:
        sys.exit(f"the wheel printed {printed!r}")


def main() -> None:
    """Build and check what would be released; with `tag`, tag it if nothing stands in the way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=["check", "tag"])
    parser.add_argument("--expect", metavar="TAG", help="fail unless this is the tag of the version (for CI)")
    arguments = parser.parse_args()
    number = version(ROOT)
    tag = f"v{number}"
    if arguments.expect not in {None, tag}:
        sys.exit(f"the tag is {arguments.expect}, and the version {number}: its tag would be {tag}")
    found = "\n".join(f"- {obstacle}" for obstacle in obstacles(ROOT))
    if found and arguments.step == "tag":
        sys.exit(f"Not tagged:\n{found}")
    made = build(ROOT)
    try_wheel(next(path for path in made if path.suffix == ".whl"), number)
    print(f"Built and tried: {', '.join(path.name for path in made)}")
    if arguments.step == "tag":
        run("git", "tag", "--annotate", tag, "--message", f"ratelimit-redis {number}")
        print(f"Tagged {tag}. Next: git push origin {tag}")
    elif arguments.expect is None:
        print(f"Before it can be tagged:\n{found}" if found else "Next: make release-tag")


if __name__ == "__main__":
    main()
