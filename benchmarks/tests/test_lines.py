"""Lines that a user writes, and that the applications which they are counted in are alike."""

import pytest

from benchmarks.contenders import ours
from benchmarks.contenders.contender import AMPLE
from benchmarks.contenders.web_apps import BARE, FOLDER, FRAMEWORKS, OURS, PLAN
from benchmarks.suite.web.lines import SETTINGS, code_lines, lines_written
from ratelimit.catalog.files import read_plan_file

BARE_APP = '''"""Bare."""

import a

app = a.App()


@app.get("/")
def view():
    return 1
'''
LIMITED_APP = f'''"""Limited,
as documented."""

import a
import limiter  # noqa: E402

from {SETTINGS} import LIMIT

# Why.
app = a.App()
limiter.add(
    app,
    LIMIT,
)


@app.get("/")
@limiter.limit
def view():
    """A view."""
    return 1
'''


def test_only_code_counts():
    """Neither docstrings, comments and blank lines nor the import of the settings."""
    assert code_lines(LIMITED_APP) == [
        "import a",
        "import limiter",
        "app = a.App()",
        "limiter.add(",
        "    app,",
        "    LIMIT,",
        ")",
        '@app.get("/")',
        "@limiter.limit",
        "def view():",
        "    return 1",
    ]


def test_lines_written_are_those_that_the_bare_application_has_not():
    """The import, the call over four lines and the decorator; what is changed counts as what is new."""
    written = ["import limiter", "limiter.add(", "    app,", "    LIMIT,", ")", "@limiter.limit"]
    assert lines_written(BARE_APP, LIMITED_APP) == written
    assert lines_written(BARE_APP, BARE_APP.replace('"/"', '"/", 1')) == ['@app.get("/", 1)']
    assert lines_written(BARE_APP, BARE_APP) == []


@pytest.mark.parametrize("framework", FRAMEWORKS, ids=lambda framework: framework.name)
def test_every_application_is_the_bare_one_and_a_limiter(framework):
    """Bare first, ours second; nobody leaves out a line of the bare application but one that it changes."""
    assert [app.name for app in framework.apps[:2]] == [BARE, OURS]
    bare = code_lines(framework.apps[0].path.read_text(encoding="utf-8"))
    views = [line for line in bare if line.lstrip().startswith("return")]
    assert len(views) == 3
    for app in framework.apps[1:]:
        source = app.path.read_text(encoding="utf-8")
        assert [line for line in code_lines(source) if line.lstrip().startswith("return")][-3:] == views
        assert 0 < len(lines_written("\n".join(bare), source)) <= 15


def test_every_file_is_an_application_that_is_measured():
    """None lies about that nobody runs."""
    known = {f"{app.module}.py" for framework in FRAMEWORKS for app in framework.apps}
    assert {path.name for path in FOLDER.glob("*.py")} == known | {"__init__.py", "settings.py"}


def test_the_plan_whose_lines_are_counted_is_the_one_that_is_measured():
    """plan.toml says what the suite puts."""
    document = read_plan_file(PLAN)
    assert list(document.plans.values()) == [ours._plan(AMPLE)]
