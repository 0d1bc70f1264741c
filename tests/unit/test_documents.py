"""The documents are true: their code runs and prints what they say, their links lead somewhere, their tests exist."""

import ast
import re
import runpy
import tomllib
from typing import get_args

import pytest
from helpers.documents import DOCUMENTS, NEED_INTEGRATIONS, ON_A_CLUSTER, SERVED, programs_of, run_program
from helpers.paths import ROOT

import ratelimit
from ratelimit.errors import Cause

FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
ELSEWHERE = NEED_INTEGRATIONS | ON_A_CLUSTER | SERVED
PROGRAMS = [program for name in DOCUMENTS if name not in ELSEWHERE for program in programs_of(name)]
TESTS = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}


def anchors(text):
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_has_a_program():
    """The pattern above finds what it is meant to find."""
    assert {program.id.rpartition("-")[0] for program in PROGRAMS} >= {"README.md", "docs/checks.md"}


@pytest.mark.parametrize(("code", "output"), PROGRAMS)
def test_a_program_prints_what_its_document_says(code, output, tmp_path):
    """Each Python block is a whole program; a text block right below it is its output."""
    run_program(code, output, tmp_path)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name):
    """Each link within the repository names a file that is there, and a heading of it if it names one."""
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", DOCUMENTS[name])):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = (ROOT / name).parent / file if file else ROOT / name
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


def test_the_reference_has_every_public_name():
    """Each once, on a page of docs/reference."""
    pages = (
        DOCUMENTS[name]
        for name in DOCUMENTS
        if re.match(r"docs/reference/(?!integrations|observability|testing)", name)
    )
    listed = re.findall(r"^\.\. auto(?:class|data|exception):: (\w+)$", "\n".join(pages), re.MULTILINE)
    assert sorted(listed) == ratelimit.__all__


@pytest.mark.parametrize("room", ["integrations", "observability", "testing"])
def test_the_reference_has_every_name_of(room):
    """Of what the modules export, each under the name of one of them."""
    exported = set()
    for path in (ROOT / "ratelimit" / room).glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if (
                isinstance(node, ast.Assign)
                and isinstance(node.targets[0], ast.Name)
                and node.targets[0].id == "__all__"
            ):
                exported.update(ast.literal_eval(node.value))
    page = DOCUMENTS[f"docs/reference/{room}.md"]
    listed = set(re.findall(r"^\.\. auto\w+:: (?:[\w.]+\.)?(\w+)(?:\(\))?$", page, re.MULTILINE))
    assert exported
    assert exported - listed == set()


LIMIT = re.compile(r"`(throttle|quota) = (\{[^`…]*\})`")


@pytest.mark.parametrize("name", [name for name, text in DOCUMENTS.items() if LIMIT.search(text)])
def test_limits_in_a_text_are_limits(name):
    """Such as those in tables, which no program reads."""
    for kind, table in LIMIT.findall(DOCUMENTS[name]):
        {"throttle": ratelimit.Throttle, "quota": ratelimit.Quota}[kind](**tomllib.loads(f"limit = {table}")["limit"])


def test_the_figures_are_what_the_script_draws():
    """`python scripts/figures.py` changes none of them, and there is no other."""
    figures = runpy.run_path(str(ROOT / "scripts" / "figures.py"))["FIGURES"]
    drawn = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "figures").iterdir()}
    assert drawn == {name: draw() for name, draw in figures.items()}
    assert "admitted: 18" in drawn["throttle-and-quota.svg"]


def test_every_decision_is_listed():
    """docs/decisions/README.md has a line for each, in order."""
    decisions = [name.rpartition("/")[2] for name in DOCUMENTS if re.match(r"docs/decisions/\d", name)]
    assert re.findall(r"^\| \[\d+\]\((.+?)\)", DOCUMENTS["docs/decisions/README.md"], re.MULTILINE) == decisions


@pytest.mark.parametrize("name", ["docs/checks.md", "docs/operations.md"])
def test_every_cause_of_a_503_is_explained(name):
    """In a row of its own or with others that are answered alike."""
    rows = re.findall(r"^\| (`\w+`[^|]*) \|", DOCUMENTS[name], re.MULTILINE)
    assert {f"`{cause}`" for cause in get_args(Cause)} <= {word for row in rows for word in re.findall(r"`\w+`", row)}


@pytest.mark.parametrize("name", ["README.md", "SECURITY.md", "docs/promises.md"])
def test_tests_that_a_document_names_exist(name):
    """Files by their name, functions by theirs."""
    named = re.findall(r"`(test_\w+(?:\.py)?)`", DOCUMENTS[name])
    assert named
    missing = {
        test for test in named if test not in TESTS and not any(f"def {test}(" in source for source in TESTS.values())
    }
    assert missing == set()


def test_every_test_of_a_promise_is_named_in_the_promises():
    """docs/promises.md lists all of them, each at its promise."""
    source = TESTS["test_promises.py"]
    promises = re.split(r"^## (?=\d)", DOCUMENTS["docs/promises.md"], flags=re.MULTILINE)[1:]
    listed = {(name, part[0]) for part in promises for name in re.findall(r"`(test_\w+)`", part)}
    defined = set(re.findall(r'^def (test_\w+)\(.*?"""Promise (\d):', source, re.MULTILINE | re.DOTALL))
    assert defined == {(name, number) for name, number in listed if f"def {name}(" in source}


def measured(heading):
    """The rows of a table of docs/performance.md, by contender."""
    (table,) = re.findall(rf"^\*\*{heading}\*\*\n\n((?:\|.*\n)+)", DOCUMENTS["docs/performance.md"], re.MULTILINE)
    rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines())
    return {name: cells for name, *cells in rows}


def test_the_readmes_figures_are_those_of_the_performance_page():
    """What README.md says of speed on the machine of docs/performance.md is what was measured there."""
    text = " ".join(DOCUMENTS["README.md"].split())
    peer, floor = "throttled-py token bucket", "raw socket, no-op EVALSHA"
    together, apart = (
        measured(r"valkey [\d.]+ \(valkey\), same core"),
        measured(r"valkey [\d.]+ \(valkey\), cores apart"),
    )
    assert f"{together[peer][2]} with client and server on one core, {apart[peer][2]} on a core each" in text
    check_us, peer_us, floor_us = (float(together[name][1]) for name in ("check", peer, floor))
    above = (check_us - floor_us) / (peer_us - floor_us)
    assert f"what comes on top of it was {above:.2f}x of the peers' on the first machine" in text
    tasks = measured(r"asyncio, 64 tasks in one process \(valkey\)")
    assert f"make {tasks[peer][1]} of throttled-py's checks per second" in text
    admitted, right = re.match(r"([\d,]+) of ([\d,]+) ", measured(r".*the exact maximum \(valkey\)")[peer][1]).groups()
    assert f"it admitted {admitted} where {right} were right" in text


ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_the_architecture_names_every_room():
    """Its picture of the package has exactly the folders that there are."""
    picture = ARCHITECTURE.split("```")[1]
    rooms = {path.name for path in (ROOT / "ratelimit").iterdir() if (path / "__init__.py").is_file()}
    assert set(re.findall(r"^  (\w+)/", picture, re.MULTILINE)) == rooms


@pytest.mark.parametrize(("column", "most"), [(1, 7), (2, 10)], ids=["blocking", "asyncio"])
def test_the_walk_of_a_check_is_short(column, most):
    """The files from `check` to the socket and back exist, and are as few as promised."""
    table = ARCHITECTURE.split("A newcomer's walk")[1].split("**Blocking.**")[0]
    cells = [line.split("|")[column + 1] for line in table.splitlines() if line.startswith("| ")]
    files = [name for cell in cells for name in re.findall(r"`([\w/]+\.py)`", cell)]
    assert [name for name in files if not (ROOT / "ratelimit" / name).is_file()] == []
    assert 5 < len(files) <= most


def test_the_files_of_the_promises_exist():
    """Scripts, modules and tests in the table of promises."""
    table = ARCHITECTURE.split("## Where each promise is kept")[1].split("## Glossary")[0]
    names = re.findall(r"`([\w/]+(?:\.py|\.lua|/))`", table)
    places = (ROOT, ROOT / "ratelimit", ROOT / "lua", ROOT / "lua" / "lib")
    assert [name for name in names if not any((place / name).exists() for place in places)] == []


def test_the_glossary_is_short():
    """At most 25 words."""
    rows = [line for line in ARCHITECTURE.split("## Glossary")[1].splitlines() if line.startswith("| ")]
    assert 5 < len(rows) - 1 <= 25
