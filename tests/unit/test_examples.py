"""The examples: run as they stand, by the interpreter of the tests, with every warning an error."""

import re
import subprocess
import sys

import pytest
from helpers.paths import EXAMPLES

from ratelimit.catalog.files import read_plan_file


def run(name):
    """The standard output of an example, which must leave nothing on standard error."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / name)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def test_every_example_is_tested_here():
    """A new example comes with a test."""
    tested = {"quickstart.py", "raise_for_limit.py", "asyncio_gateway.py", "alerts.py", "plans.toml"}
    with_a_framework = {"fastapi_gateway.py", "fastapi_replicas.py"}  # tests/integrations/test_examples.py
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == tested | with_a_framework


def test_every_example_is_linked_from_the_readme():
    """Whoever reads README.md finds all of them."""
    text = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\(examples/([\w.]+)\)", text))
    assert linked == {path.name for path in EXAMPLES.iterdir() if path.is_file()}


def test_quickstart():
    """Three of a burst of three pass, the fourth is told to come back."""
    lines = run("quickstart.py").splitlines()
    assert [line.split(" {")[0] for line in lines] == ["200 allowed"] * 3 + ["429 plan:gold"]
    assert re.findall(r'"quota:gold";r=(\d+)', "\n".join(lines)) == ["999", "998", "997", "997"]
    assert "'Retry-After': '2'" in lines[3]


def test_raise_for_limit():
    """A pass, a refusal with its headers, and the 403 of a caller without a key."""
    assert run("raise_for_limit.py").splitlines() == [
        "200 OK Rex, Tom",
        "429 Too Many Requests ",
        "  Retry-After: 3600",
        '  RateLimit: "plan:trial";r=0;t=3600',
        '  RateLimit-Policy: "plan:trial";q=1;w=3600',
        "403 Forbidden ",
    ]


def test_asyncio_gateway():
    """Of eight requests at once exactly the burst of four passes; the other methods have limits of their own."""
    assert run("asyncio_gateway.py").splitlines() == [
        "4 x GET /pets: HTTP/1.1 200 OK",
        "4 x GET /pets: HTTP/1.1 429 Too Many Requests",
        "POST /orders: HTTP/1.1 200 OK",
        "GET /health without a key: HTTP/1.1 200 OK",
        "GET /pets without a key: HTTP/1.1 403 Forbidden",
    ]


def test_alerts():
    """Twelve requests on a quota of ten reach two shares of it, and the worker handles each once."""
    lines = run("alerts.py").splitlines()
    assert [line.partition(" ")[2] for line in lines] == [
        "reached 50% of plan trial: 5 of 10",
        "reached 100% of plan trial: 10 of 10",
    ]


@pytest.mark.parametrize("plan", ["basic", "premium"])
def test_plans(plan):
    """The example's plan file can be read, and both of its plans open the same stage."""
    document = read_plan_file(EXAMPLES / "plans.toml")
    assert list(document.plans) == ["basic", "premium"]
    assert document.plans[plan].stages[0].stage == "petstore/prod"
    assert not document.stages["petstore/prod"].methods["GET /health"].key_required
