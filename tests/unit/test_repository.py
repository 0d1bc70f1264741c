"""What the repository's host reads, workflows, templates and hooks, agrees with Makefile and pyproject.toml."""

import re
import tomllib

import pytest
import yaml
from helpers.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
WORKFLOWS = {path.name: yaml.safe_load(path.read_text()) for path in (ROOT / ".github" / "workflows").iterdir()}
JOBS = [
    pytest.param(job, id=f"{name}-{title}")
    for name, workflow in WORKFLOWS.items()
    for title, job in workflow["jobs"].items()
]


def made_by(job):
    """The targets of the Makefile that a job makes."""
    commands = "\n".join(step.get("run", "") for step in job["steps"])
    return re.findall(r"(?:^|&& )make ([\w-]+)", commands, re.MULTILINE)


@pytest.mark.parametrize("job", JOBS)
def test_a_job_makes_targets_that_exist(job):
    """Nothing is spelt out in a workflow that `make` does."""
    assert set(made_by(job)) <= TARGETS


def test_the_public_ci_lints_and_tests():
    """The pattern above finds what it is meant to find."""
    made = {target for job in WORKFLOWS["ci.yml"]["jobs"].values() for target in made_by(job)}
    assert made >= {"lint", "test", "test-long", "release-check"} | ({"compat"} & TARGETS)


def test_the_public_ci_tests_the_pythons_that_are_promised():
    """Those of the classifiers, the lowest of which is the lowest that can install it."""
    classified = [re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", line) for line in PROJECT["classifiers"]]
    pythons = [match[1] for match in classified if match]
    assert WORKFLOWS["ci.yml"]["jobs"]["test"]["strategy"]["matrix"]["python"] == pythons
    assert PROJECT["requires-python"] == f">={pythons[0]}"


def test_one_job_may_publish_and_nothing_else_may_write():
    """A workflow's token reads; that of the job which publishes proves to PyPI who it is."""
    granted = {
        (name, title, scope): level
        for name, workflow in WORKFLOWS.items()
        for title, job in [("", workflow), *workflow["jobs"].items()]
        for scope, level in job.get("permissions", {}).items()
    }
    assert {job for job, level in granted.items() if level != "read"} == {("release.yml", "publish", "id-token")}
    assert all("permissions" in workflow for workflow in WORKFLOWS.values())


@pytest.mark.parametrize("name", ["bug.yml", "feature.yml"])
def test_an_issue_form_is_one(name):
    """It has what the host requires of a form: a name, a description, and fields with ids and labels."""
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / name).read_text())
    assert form.keys() == {"name", "description", "labels", "body"}
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert {field["type"] for field in fields} == {"textarea"}
    assert len({field["id"] for field in fields}) == len(fields)
    assert all(field["attributes"]["label"] for field in fields)


def test_the_hooks_lint_as_make_does():
    """So the versions of the linters stand in pyproject.toml alone."""
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    (local,) = (repository["hooks"] for repository in hooks if repository["repo"] == "local")
    assert [hook["entry"] for hook in local] == ["make lint"]
