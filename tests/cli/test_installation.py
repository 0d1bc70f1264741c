"""The old package `ratelimit` in the same environment: the command says so, instead of failing in the middle."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ratelimit
from ratelimit.cli import installation

PACKAGE = Path(ratelimit.__file__).parent
LUA = next(path for path in (PACKAGE / "lua", PACKAGE.parent / "lua") if path.is_dir())
ENTRY_POINT = ["-c", "from ratelimit.cli import main; main()"]
MODULE = ["-m", "ratelimit"]
REINSTALL = "pip install --force-reinstall ratelimit-redis"

# The files that ratelimit 2.2.1 installs, as far as they matter here.
OLD_FILES = {
    "ratelimit/__init__.py": "from ratelimit.decorators import limits\nfrom ratelimit.exception import *\n",
    "ratelimit/decorators.py": "def limits():\n    pass\n",
    "ratelimit/exception.py": "class RateLimitException(Exception):\n    pass\n",
    "ratelimit-2.2.1.dist-info/METADATA": "Metadata-Version: 2.1\nName: ratelimit\nVersion: 2.2.1\n",
}


def write_old_package(site):
    for name, text in OLD_FILES.items():
        path = site / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def uninstall_old_package(site):
    for name in OLD_FILES:
        (site / name).unlink()
    (site / "ratelimit-2.2.1.dist-info").rmdir()


def write_our_package(site):
    shutil.copytree(PACKAGE, site / "ratelimit", dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(LUA, site / "ratelimit" / "lua", dirs_exist_ok=True)


@pytest.fixture
def site(tmp_path):
    """A folder of installed packages, with nothing in it."""
    path = tmp_path / "site-packages"
    path.mkdir()
    return path


@pytest.fixture(params=[ENTRY_POINT, MODULE], ids=["entry point", "python -m"])
def command(request, site, tmp_path):
    """Runs `ratelimit --version` from the packages in `site`, then from `others`, then from those of this interpreter.

    The last are left out if `isolated`: our package may be among them.
    """

    def run(*others, isolated=False):
        path = os.pathsep.join(map(str, (site, *others)))
        return subprocess.run(
            [sys.executable, *(["-S"] if isolated else []), *request.param, "--version"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
        )

    return run


def assert_reported(ran, *lines):
    """Exit code 4, nothing on standard output, and on standard error these lines without a traceback."""
    assert (ran.returncode, ran.stdout) == (installation.EXIT_CODE, "") == (4, "")
    assert "Traceback" not in ran.stderr
    assert ran.stderr.startswith("ratelimit: ")
    assert ran.stderr.splitlines()[-len(lines) :] == [f"    {line}" for line in lines]


def test_our_package_alone_works(command, site):
    """The folder that the tests below damage is a complete installation."""
    write_our_package(site)
    ran = command()
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"{ratelimit.__version__}\n", "")


def test_the_old_package_was_installed_first(command, site):
    """Our files are whole, but to uninstall either package would break the other."""
    write_old_package(site)
    write_our_package(site)
    ran = command()
    assert "the old package `ratelimit` 2.2.1 is installed in the same environment" in ran.stderr
    assert_reported(ran, "pip uninstall ratelimit", REINSTALL)


def test_the_old_package_was_installed_last(command, site):
    """Its `__init__` has replaced ours: the message does not need it."""
    write_our_package(site)
    write_old_package(site)
    ran = command()
    assert "the old package `ratelimit` 2.2.1 is installed in the same environment" in ran.stderr
    assert_reported(ran, "pip uninstall ratelimit", REINSTALL)


def test_the_old_package_was_uninstalled(command, site):
    """It took our `__init__` with it: half of the remedy is left to do."""
    write_our_package(site)
    write_old_package(site)
    uninstall_old_package(site)
    ran = command(isolated=True)
    assert "files of `ratelimit-redis` are missing or overwritten" in ran.stderr
    assert_reported(ran, REINSTALL)


def test_the_old_package_in_another_folder_does_no_harm(command, site, tmp_path):
    """Where the folders differ nothing is overwritten: the first on the path is imported, which is ours."""
    write_our_package(site)
    write_old_package(tmp_path / "other")
    ran = command(tmp_path / "other")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"{ratelimit.__version__}\n", "")
