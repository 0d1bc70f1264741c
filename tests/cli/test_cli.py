"""The command line as a whole, and `ratelimit check`: on every real server, with exact output and exit codes."""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.commands import run
from helpers.redis_snapshot import exact_snapshot

from ratelimit import Catalog, Limiter, Method, Quota, Stage, Throttle, UsagePlan

STAGE = "petstore/prod"
# One token a day: nothing comes back while a test runs.
SLOW = "1/86400"


def run_python(code, *arguments):
    """Run Python code in an interpreter of its own."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def limiter(server):
    with Limiter.from_url(server.url, deadline=2) as made:
        made.catalog.put_plan(UsagePlan("gold", Throttle(SLOW, 3), Quota(10, "MONTH"), [STAGE]))
        made.catalog.put_stage(Stage(STAGE, methods={"GET /health": Method(key_required=False)}))
        yield made


@pytest.fixture
def key(limiter):
    return limiter.catalog.create_key("me", plans=["gold"])


@pytest.fixture
def check(server):
    """Run `ratelimit check` on the server."""
    return lambda *arguments, **options: run("check", "--url", server.url, *arguments, **options)


class TestGroup:
    @pytest.mark.parametrize("missing", ["click", "rich"])
    def test_without_the_extra_it_says_how_to_install_it(self, missing):
        """Where click or rich is absent, `ratelimit` exits with 2 and one line that names the extra."""
        ran = run_python(f"import sys; sys.modules[{missing!r}] = None; from ratelimit.cli import main; main()")
        assert ran.stderr == "ratelimit: the command line needs the extra: pip install 'ratelimit-redis[cli]'\n"
        assert (ran.returncode, ran.stdout) == (2, "")

    def test_the_hint_names_the_distribution(self):
        """The extra exists under the name that the hint gives."""
        assert "cli" in importlib.metadata.metadata("ratelimit-redis").get_all("Provides-Extra")

    def test_another_missing_module_is_not_mistaken_for_the_extra(self):
        """A module of our own that cannot be imported is a defect, and stays visible."""
        code = "import sys; sys.modules['ratelimit.cli.demo.command'] = None; from ratelimit.cli import main; main()"
        ran = run_python(code)
        assert ran.stderr.splitlines()[-1].startswith("ModuleNotFoundError: ")
        assert ran.returncode == 1

    def test_python_m_ratelimit_is_the_same_command(self):
        """`python -m ratelimit` runs the entry point, under the same name."""
        command = [sys.executable, "-m", "ratelimit"]
        version = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
        assert version.stdout == importlib.metadata.version("ratelimit-redis") + "\n"
        wrong = subprocess.run([*command, "nonsense"], capture_output=True, text=True, check=False)
        assert wrong.returncode == 2
        assert wrong.stderr.startswith("Usage: ratelimit ")

    def test_the_entry_point_is_main(self):
        """The script `ratelimit` of the distribution calls `ratelimit.cli:main`."""
        (script,) = importlib.metadata.entry_points(group="console_scripts", name="ratelimit")
        assert script.value == "ratelimit.cli:main"

    def test_every_command_explains_itself(self):
        """--help works for the group and each command, and fits into 80 columns."""
        for command in ([], ["apply"], ["check"], ["demo"], ["replay"]):
            result = run(*command, "--help")
            assert result.exit_code == 0
            assert max(map(len, result.stdout.splitlines())) <= 80


class TestCheck:
    def test_an_admitted_request_is_counted_and_shown(self, check, key, limiter):
        """Exit code 0, the state of each limit in a table, and one unit fewer than before."""
        result = check(key.value, STAGE, "GET /pets")
        assert (result.exit_code, result.stderr) == (0, "")
        lines = result.stdout.splitlines()
        assert lines[0] == "ALLOWED  HTTP 200"
        assert lines[2].split() == ["limit", "of", "left", "reset", "in", "admits", "in"]
        assert lines[4].split()[:3] == ["plan:gold", "3", "2"]
        assert lines[5].split()[:3] == ["quota:gold", "10", "9"]
        assert lines[-1].startswith("Decided by redis at ")
        assert limiter.peek(key.value, STAGE, "GET /pets").limits[1].remaining == 9

    def test_a_refused_request_exits_with_1(self, check, key):
        """The fourth of a burst of three: who refused, and for how long."""
        for _ in range(3):
            assert check(key.value, STAGE, "GET /pets").exit_code == 0
        result = check(key.value, STAGE, "GET /pets")
        assert (result.exit_code, result.stderr) == (1, "")
        assert result.stdout.startswith("THROTTLED  HTTP 429  by plan:gold  retry after 1 d\n")

    def test_waiting_that_cannot_help_is_said(self, check, key):
        """A cost above the burst never passes."""
        result = check(key.value, STAGE, "GET /pets", "--cost", "4")
        assert result.exit_code == 1
        assert result.stdout.splitlines()[0] == "THROTTLED  HTTP 429  by plan:gold  waiting does not help"
        assert result.stdout.splitlines()[4].split()[-1] == "never"

    @pytest.mark.parametrize("options", [["--peek"], ["--cost", "0"]])
    def test_a_peek_consumes_nothing(self, check, key, server, options):
        """--peek and --cost 0 leave every byte in Redis as it was."""
        check(key.value, STAGE, "GET /pets")
        before = exact_snapshot(server)
        assert check(key.value, STAGE, "GET /pets", *options).exit_code == 0
        assert exact_snapshot(server) == before

    def test_any_cost_can_be_asked_about(self, check, key, server):
        """--peek --cost says what a cost would get: here more than is left, and less."""
        check(key.value, STAGE, "GET /pets", "--cost", "2")
        before = exact_snapshot(server)
        refused = check(key.value, STAGE, "GET /pets", "--peek", "--cost", "2")
        assert refused.exit_code == 1
        assert refused.stdout.startswith("THROTTLED  HTTP 429  by plan:gold")
        assert check(key.value, STAGE, "GET /pets", "--peek", "--cost", "1").exit_code == 0
        assert exact_snapshot(server) == before

    def test_the_cost_is_consumed(self, check, key):
        """--cost 2 takes two units of each limit."""
        data = json.loads(check(key.value, STAGE, "GET /pets", "--cost", "2", "--json").stdout)
        assert [(limit["name"], limit["remaining"]) for limit in data["limits"]] == [
            ("plan:gold", 1),
            ("quota:gold", 8),
        ]

    def test_json_is_the_decision(self, check, key, limiter):
        """All attributes of the decision, equal to what the library answers to the same request."""
        limiter.check(key.value, STAGE, "GET /pets", cost=3)
        result = check(key.value, STAGE, "GET /pets", "--json", "--peek")
        data = json.loads(result.stdout)
        assert result.exit_code == 1
        fixed = {name: data[name] for name in data if name not in {"retry_after", "limits", "time_us", "headers"}}
        assert fixed == {
            "allowed": False,
            "reason": "THROTTLED",
            "status": 429,
            "detail": None,
            "limited_by": "plan:gold",
            "source": "redis",
            "degraded": False,
            "cause": None,
            "error": None,
        }
        later = limiter.peek(key.value, STAGE, "GET /pets")
        passed_us = later.time_us - data["time_us"]
        assert round((data["retry_after"] - later.retry_after) * 1e6) == passed_us
        assert [limit["name"] for limit in data["limits"]] == [limit.name for limit in later.limits]
        assert data["limits"][1]["remaining"] == later.limits[1].remaining == 7
        assert set(data["headers"]) == {"Retry-After", "RateLimit", "RateLimit-Policy"}

    def test_the_key_comes_from_standard_input_or_the_environment(self, check, key):
        """`-` reads one line, and without KEY the variable is used: neither stands in the list of processes."""
        assert check("-", STAGE, "GET /pets", stdin=f"{key.value}\r\nnot this\n").exit_code == 0
        assert check(STAGE, "GET /pets", RATELIMIT_KEY=key.value).exit_code == 0
        last = json.loads(check(key.value, STAGE, "GET /pets", "--json").stdout)
        assert last["limits"][0]["remaining"] == 0

    @pytest.mark.parametrize(
        ("arguments", "stdin", "detail"),
        [
            ([], None, "missing"),
            (["-"], "", "missing"),
            (["-"], "\n", "missing"),
            (["tenantUnknownKey00000001"], None, "unknown"),
            (["too short"], None, "unknown"),
            (["-"], b"\xff\xfe" * 20, "unknown"),
        ],
    )
    def test_a_key_that_is_none_gets_403(self, check, limiter, arguments, stdin, detail):
        """No key, an empty line, an unknown value, bytes that are no text: refused with exit code 1, and why."""
        remedies = {
            "missing": "The request has no key: give KEY, standard input (-) or RATELIMIT_KEY.",
            "unknown": "No key has this value. Give the key's value, not its id.",
        }
        result = check(*arguments, STAGE, "GET /pets", stdin=stdin, COLUMNS="200")
        assert result.stdout == f"INVALID_KEY  HTTP 403  {detail}\n{remedies[detail]}\n"
        assert (result.exit_code, result.stderr) == (1, "")

    def test_a_key_that_opens_nothing_is_shown_what_to_look_at(self, check, limiter):
        """Disabled, expired and in no plan of the stage: each names the commands that help."""
        for more, remedy in (
            ({"enabled": False}, "see `ratelimit keys enable`"),
            ({"expires_at": 1}, "`ratelimit keys update --expires`"),
            ({"plans": []}, "see `ratelimit keys opens`"),
        ):
            key = limiter.catalog.create_key(**{"plans": ["gold"], **more})
            result = check(key.value, STAGE, "GET /pets", COLUMNS="200")
            assert (result.exit_code, remedy in result.stdout) == (1, True), result.stdout

    def test_an_open_method_needs_no_key(self, check, limiter):
        """A method with key_required = false is allowed without any."""
        result = check(STAGE, "GET /health")
        assert (result.exit_code, result.stdout.splitlines()[0]) == (0, "ALLOWED  HTTP 200")

    def test_the_value_of_a_key_is_never_printed(self, check, key):
        """Not when allowed, refused or as JSON."""
        runs = [check(key.value, STAGE, "GET /pets", *more) for more in ([], ["--json"], ["--cost", "9"])]
        runs.append(check("--url", "unix:///nowhere", key.value, STAGE, "GET /pets"))
        assert [key.value in result.output for result in runs] == [False] * 4

    def test_namespace_and_pepper(self, server, check):
        """--namespace chooses the catalogue; the pepper is read from the environment, and a wrong one is refused."""
        with Limiter.from_url(server.url, namespace="other", pepper="salt", deadline=2) as limiter:
            limiter.catalog.put_plan(UsagePlan("gold", stages=[STAGE]))
            key = limiter.catalog.create_key(plans=["gold"]).value
        request = ("--namespace", "other", key, STAGE, "GET /pets")
        assert check(*request, RATELIMIT_PEPPER="salt").exit_code == 0
        assert check(key, STAGE, "GET /pets", RATELIMIT_PEPPER="salt", RATELIMIT_NAMESPACE="other").exit_code == 0
        elsewhere = check(key, STAGE, "GET /pets", RATELIMIT_PEPPER="salt")
        assert elsewhere.exit_code == 3
        assert "there is no catalogue in namespace 'ratelimit': apply a plan file" in elsewhere.stderr
        wrong = check(*request, RATELIMIT_PEPPER="sugar")
        assert wrong.exit_code == 2
        assert wrong.stderr.startswith("Error: pepper: is not the one that the keys of namespace 'other'")
        assert "sugar" not in wrong.output

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "give [KEY] STAGE METHOD"),
            (["one"], "give [KEY] STAGE METHOD"),
            (["one", "two", "three", "four"], "give [KEY] STAGE METHOD"),
            (["k", STAGE, "GET /", "--cost", "-1"], "'--cost'"),
            (["k", STAGE, "GET /", "--cost", "1.5"], "'--cost'"),
            (["k", STAGE, "GET /", "--url", "http://localhost"], "url: cannot be used"),
            (["k", STAGE, "GET /", "--url", "redis://localhost:port"], "url: cannot be used"),
            (["k", STAGE, "GET /", "--url", "redis://localhost/0?nonsense=1"], "url: cannot be used"),
            (["k", STAGE, "GET /", "--deadline", "0"], "deadline: must be seconds above 0"),
            (["k", STAGE, "GET /", "--deadline", "nan"], "deadline: must be seconds above 0"),
            (["k", STAGE, "GET /", "--namespace", "a b"], "namespace: cannot be 'a b'"),
        ],
    )
    def test_wrong_usage_exits_with_2(self, arguments, message):
        """A message on standard error, nothing on standard output, no traceback."""
        result = run("check", *arguments)
        assert message in result.stderr
        assert (result.exit_code, result.stdout) == (2, "")
        assert isinstance(result.exception, SystemExit)


class TestUnreachable:
    REQUEST = ("tenantUnknownKey00000001", STAGE, "GET /pets")

    def test_a_server_that_is_not_there_exits_with_3(self, tmp_path):
        """What happened, where it was looked for, and the remedy; the library's own log line is not added."""
        url = f"unix://{tmp_path}/no.sock"
        result = run("check", "--url", url, *self.REQUEST)
        assert (result.exit_code, result.stdout) == (3, "")
        first, second = result.stderr.splitlines()
        assert first.startswith("Error: no connection to Redis: ")
        assert second == f"Is a server running at {url}? Name another one by --url or RATELIMIT_URL."
        assert isinstance(result.exception, SystemExit)
        command = [sys.executable, "-m", "ratelimit", "check", "--url", url, *self.REQUEST]
        alone = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert (alone.returncode, alone.stderr) == (3, result.stderr)

    def test_json_still_has_the_decision(self, tmp_path):
        """Standard output is JSON also when the store fails, and the exit code is 3."""
        result = run("check", *self.REQUEST, "--json", RATELIMIT_URL=f"unix://{tmp_path}/no.sock")
        assert result.exit_code == 3
        data = json.loads(result.stdout)
        assert (data["reason"], data["status"], data["source"]) == ("UNAVAILABLE", 503, "fail_closed")

    def test_a_password_in_the_url_is_not_shown(self, server):
        """A server that refuses the login is a fault of the store; the message leaves the password out."""
        url = server.url.replace("unix://", "unix://nobody:hunter2@")
        result = run("check", "--url", url, *self.REQUEST)
        assert result.exit_code == 3
        assert "hunter2" not in result.output
        assert "Check the user and the password" in result.stderr
        assert f"The server is {server.url}." in result.stderr

    def test_what_a_user_may_not_do_is_reported_as_that(self, server):
        """A server that has just answered is not suspected of not running."""
        with server.client() as admin:
            admin.acl_setuser("little", enabled=True, nopass=True, keys="*", commands=["+ping", "+hgetall"], reset=True)
            try:
                url = server.url.replace("unix://", "unix://little:any@")
                result = run("plans", "put", "gold", "--stage", STAGE, "--yes", "--url", url)
            finally:
                admin.acl_deluser("little")
        assert result.exit_code == 3
        assert "lua/ACL.md says what an administrator needs" in result.stderr
        assert "Is a server running" not in result.stderr


VALUE = "rl_live_" + "a1B2c3D4e5F6" * 3


@pytest.mark.parametrize(
    "command",
    [
        (VALUE,),
        ("plans", "show", VALUE),
        ("plans", "put", VALUE, "--alert", VALUE),
        ("keys", "list", VALUE),
        ("keys", "list", "--cursor", VALUE),
        ("keys", "show", VALUE),
        ("keys", "create", "x", "--plan", VALUE),
        ("keys", "add", VALUE, VALUE),
        ("keys", "move", "k123456789", VALUE, "gold"),
        ("keys", "import", VALUE),
        ("usage", VALUE),
        ("usage", "set-remaining", VALUE, "gold", "10"),
        ("stages", "delete", VALUE, "--yes"),
        ("check", VALUE, STAGE),
        ("check", "x", VALUE, "GET /pets"),
        ("check", "x", STAGE, VALUE),
    ],
    ids=" ".join,
)
def test_a_key_value_in_a_wrong_place_is_not_shown(command, server):
    """Whatever it was taken for: a plan, a command, a file. The command fails and says what was wrong without it."""
    result = run(*command, RATELIMIT_URL=server.url)
    assert result.exit_code == 2
    assert VALUE not in result.output + result.stderr
    assert result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full on this system")
@pytest.mark.parametrize("command", [("keys", "create", "x"), ("keys", "list", "--all", "--json"), ("keys", "export")])
def test_output_that_cannot_be_written(command, server):
    """One line and exit code 3; of a key whose value is lost by that, what to do."""
    with server.client() as client:
        Catalog(client).create_key("one")
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "ratelimit", *command, "--url", server.url],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    assert ran.returncode == 3
    assert "Traceback" not in ran.stderr
    assert "could not be written" in ran.stderr
    assert ("Give it another one: `ratelimit keys rotate " in ran.stderr) == ("create" in command)
