"""`ratelimit apply`: a plan file made to hold, on every real server."""

import json
import os
import threading

import pytest
from helpers.commands import run
from helpers.paths import EXAMPLE_PLANS
from helpers.redis_snapshot import snapshot

from ratelimit import Limiter, Throttle

pytestmark = pytest.mark.slow


FIRST = """
account = { rate = 10, burst = 5 }
[plans.silver]
throttle = { rate = 1, burst = 2 }
stages = ["petstore/prod"]
[plans.gold]
stages = ["petstore/prod"]
[stages."petstore/prod"]
throttle = { rate = 5, burst = 5 }
"""
SECOND = """
[plans.silver]
throttle = { rate = 1, burst = 3 }
stages = ["petstore/prod"]
[plans.platinum]
stages = ["petstore/prod"]
[stages."petstore/prod"]
throttle = { rate = 5, burst = 5 }
"""


@pytest.fixture
def apply(server, tmp_path):
    """Apply a text as a plan file."""

    def applied(text, *options):
        path = tmp_path / "plans.toml"
        path.write_text(text, encoding="utf-8")
        return run("apply", "--url", server.url, str(path), *options)

    return applied


@pytest.fixture
def catalog(server):
    with Limiter.from_url(server.url, deadline=2) as limiter:
        yield limiter.catalog


def rows(result):
    """The rows of the table: what happened to what."""
    lines = [line.split() for line in result.stdout.splitlines()]
    start = next(number for number, line in enumerate(lines) if line and set(line[0]) == {"─"})
    return lines[start + 1 : lines.index([], start)]


def test_it_says_what_was_added_changed_and_removed(apply, catalog):
    """The difference between what held before and what holds now, and nothing else."""
    assert rows(apply(FIRST)) == [
        ["added", "plan", "silver"],
        ["added", "plan", "gold"],
        ["added", "stage", "petstore/prod"],
        ["added", "throttle", "account"],
    ]
    result = apply(SECOND)
    assert result.exit_code == 0
    assert rows(result) == [
        ["changed", "plan", "silver"],
        ["added", "plan", "platinum"],
        ["removed", "plan", "gold"],
        ["removed", "throttle", "account"],
    ]
    assert result.stdout.splitlines()[-1].startswith("4 changes, unix://")
    assert [plan.id for plan in catalog.plans()] == ["platinum", "silver"]
    assert catalog.get_plan("silver").throttle == Throttle(1, 3)
    assert catalog.get_account_throttle() is None


def test_a_file_that_holds_changes_nothing(apply):
    """The second time there is nothing to do, and it says so."""
    apply(FIRST)
    result = apply(FIRST)
    assert result.exit_code == 0
    assert result.stdout.startswith("Nothing changed: ")


def test_a_dry_run_writes_nothing(apply, server, catalog):
    """--dry-run reports the same changes, and Redis stays empty."""
    result = apply(FIRST, "--dry-run")
    assert (result.exit_code, rows(result)[0]) == (0, ["would", "be", "added", "plan", "silver"])
    with server.client() as client:
        assert client.dbsize() == 0
    apply(FIRST)
    assert apply(FIRST, "--dry-run").stdout.startswith("Nothing would change: ")


def test_a_plan_with_keys_is_not_removed(apply, catalog):
    """The message is that of the conflict, exit code 2, and what held before holds still."""
    apply(FIRST)
    catalog.create_key(plans=["gold"])
    result = apply(SECOND)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "Error: plan_id: plan 'gold' still has 1 key: move or delete them first\n"
    assert [plan.id for plan in catalog.plans()] == ["gold", "silver"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("plans = 3", "plans.toml: plans: must be a table, not 3"),
        ("[plans.gold", "plans.toml: is not TOML: "),
        ("[plans.gold]\nthrotle = 1", "plans.gold.throtle: is not a field here: did you mean 'throttle'?"),
        ("[plans.gold.throttle]\nrate = -1\nburst = 1", "plans.gold.throttle.rate: must not be negative, got -1"),
    ],
)
def test_a_wrong_file_is_reported_with_its_fault(apply, server, text, problem):
    """The path of the file and of the field, exit code 2, no traceback, nothing written."""
    result = apply(text)
    assert problem in result.stderr
    assert (result.exit_code, result.stdout) == (2, "")
    assert isinstance(result.exception, SystemExit)
    with server.client() as client:
        assert client.dbsize() == 0


def test_a_file_that_is_not_there_is_reported():
    """No server is needed for it."""
    result = run("apply", "--url", "unix:///nowhere", "/nowhere/plans.toml")
    assert result.stderr == "Error: /nowhere/plans.toml: cannot be read: No such file or directory\n"
    assert (result.exit_code, result.stdout) == (2, "")


def test_an_unreachable_server_exits_with_3(tmp_path):
    """With the remedy, and without a traceback."""
    result = run("apply", "--url", f"unix://{tmp_path}/no.sock", str(EXAMPLE_PLANS))
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.splitlines()[1].endswith("Name another one by --url or RATELIMIT_URL.")
    assert isinstance(result.exception, SystemExit)


SPANNING = """
[plans.wide]
stages = ["toys/prod", "petstore/prod", "petstore/test"]
[plans.narrow]
stages = ["petstore/prod", "petstore/test"]
"""
WARNING = "plan wide spans 2 APIs (petstore, toys): each of its keys opens all of them"


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_plans_that_span_several_apis_draw_a_warning(apply, options):
    """On standard error, for the plan that opens stages of two APIs alone; it is applied all the same, and twice."""
    for _ in range(2):
        result = apply(SPANNING, *options)
        assert (result.exit_code, result.stderr) == (0, f"Warning: {WARNING}\n")
    assert ("Nothing changed" in result.stdout) is not bool(options)


def test_json_has_changes_and_warnings(apply):
    """The same as the table; nothing on standard error."""
    result = apply(SPANNING, "--json")
    data = json.loads(result.stdout)
    assert (result.exit_code, result.stderr) == (0, "")
    assert data == {
        "dry_run": False,
        "changes": [
            {"change": "added", "kind": "plan", "id": "wide"},
            {"change": "added", "kind": "plan", "id": "narrow"},
        ],
        "warnings": [WARNING],
    }
    assert json.loads(apply(SPANNING, "--json", "--dry-run").stdout) == {**data, "dry_run": True, "changes": []}


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_a_file_that_can_be_read_once(server, catalog, tmp_path, options):
    """A pipe, as of `apply <(generate)`, is a plan file like any other: read twice it would be an empty one."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=(FIRST,))
    writer.start()
    result = run("apply", "--url", server.url, str(path), *options)
    writer.join()
    assert (result.exit_code, result.stderr) == (0, "")
    assert [plan.id for plan in catalog.plans()] == ([] if options else ["gold", "silver"])


def test_a_dry_run_looks_at_keys(apply, catalog, server):
    """What would be refused is refused: after a dry run that passes a run passes, if nobody interferes."""
    apply(FIRST)
    catalog.create_key(plans=["gold"])
    with server.client() as client:
        before = snapshot(client)
        tried, done = (apply(SECOND, *options) for options in (["--dry-run"], []))
        assert snapshot(client) == before
    assert tried.exit_code == done.exit_code == 2
    assert tried.stderr == done.stderr == "Error: plan_id: plan 'gold' still has 1 key: move or delete them first\n"


def test_the_catalogue_returns_what_changed(catalog, tmp_path):
    """As the command prints it: (change, kind, id) of each, nothing the second time."""
    path = tmp_path / "plans.toml"
    path.write_text(FIRST, encoding="utf-8")
    would = catalog.apply(path, dry_run=True)
    assert catalog.plans() == []
    assert catalog.apply(path) == would
    assert would.changes == (
        ("added", "plan", "silver"),
        ("added", "plan", "gold"),
        ("added", "stage", "petstore/prod"),
        ("added", "throttle", "account"),
    )
    assert catalog.apply(path).changes == ()
