"""`ratelimit doctor`: what it prints, its exit codes, and the same as data."""

import json
import re

import pytest
from helpers.commands import run
from helpers.deployments import PASSWORD, PATIENT_S, deployment
from helpers.servers import NAMES

from ratelimit.admin.doctor import checks


@pytest.fixture(scope="module", params=[name for name in NAMES if name != "redis6"])
def shared(request, tmp_path_factory):
    with deployment(request.param, tmp_path_factory.mktemp("plans")) as made:
        yield made


@pytest.fixture
def doctor(shared):
    """Run `ratelimit doctor` as its user; the server is as it was afterwards."""
    yield lambda *options: run("doctor", *PATIENT, *options, RATELIMIT_URL=shared.url("doctor"))
    shared.root.config_set("maxmemory-policy", "noeviction")
    shared.root.config_set("tcp-keepalive", "300")


GATEWAY = "--gateway-user", "gateway"
PATIENT = "--gateway-deadline", str(PATIENT_S)


def test_all_is_well(doctor):
    """One line, exit code 0; `--all` says what was seen."""
    result = doctor(*GATEWAY)
    assert (result.exit_code, result.output) == (0, f"Findings: {len(checks.NAMES)} ok.\n")
    result = doctor(*GATEWAY, "--all")
    assert result.exit_code == 0
    assert "ok       eviction (primary)\n         maxmemory-policy is noeviction." in result.output


def test_what_is_wrong_with_its_command(doctor, shared):
    """The worst first; commands whole on one line; how to keep what they set; exit code 1."""
    shared.root.config_set("maxmemory-policy", "allkeys-lru")
    shared.root.config_set("tcp-keepalive", "0")
    result = doctor(*GATEWAY)
    assert result.exit_code == 1
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert lines[0] == "error    eviction (primary)"
    assert lines.index("warning  idle-connections (primary)") > 0
    assert "         redis-cli CONFIG SET maxmemory-policy noeviction" in lines
    assert "admitted again. Breaks promise 2." in " ".join(" ".join(lines).split())
    assert f"Findings: 1 error, 1 warning, {len(checks.NAMES) - 2} ok." in lines
    assert lines[-2].startswith("CONFIG SET holds until the server restarts")


def test_what_is_unknown(doctor):
    """Exit code 1: nobody knows whether all is well. What says the same is said once."""
    result = doctor()
    assert result.exit_code == 1
    assert "unknown  permissions (primary), excess-permissions (primary), scripts (primary)\n" in result.output
    assert result.output.endswith(f"Findings: 3 unknown, {len(checks.NAMES) - 3} ok.\n")
    assert "         ratelimit doctor --gateway-user gateway\n" in result.output


def test_what_is_ignored(doctor, shared):
    """By its name; an unknown name is wrong usage, with the names that there are."""
    shared.root.config_set("maxmemory-policy", "allkeys-lru")
    assert doctor(*GATEWAY, "--ignore", "eviction").exit_code == 0
    result = doctor("--ignore", "nonsense")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "eviction" in result.stderr


def test_as_data(doctor, shared):
    """The same findings, whole, with the same exit code."""
    shared.root.config_set("maxmemory-policy", "allkeys-lru")
    result = doctor(*GATEWAY, "--json")
    assert result.exit_code == 1
    data = json.loads(result.stdout)
    assert (data["format"], data["worst"]) == (1, "error")
    assert data["findings"][0] == {
        "check": "eviction",
        "severity": "error",
        "where": "primary",
        "message": data["findings"][0]["message"],
        "mend": "redis-cli CONFIG SET maxmemory-policy noeviction",
        "promise": 2,
    }
    assert {finding["check"] for finding in data["findings"]} == set(checks.NAMES)
    assert not re.search(re.escape(PASSWORD), result.output)


@pytest.mark.parametrize("deadline", ["0", "x", "nan"])
def test_a_deadline_that_is_none(doctor, deadline):
    """Wrong usage."""
    assert doctor("--gateway-deadline", deadline).exit_code == 2
