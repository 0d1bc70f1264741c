"""`ratelimit replay`: an access log through the limiter, compared with an independent model."""

import gzip
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from datetime import UTC, datetime
from pathlib import Path

import pytest
from helpers.access_logs import SMALL, SMALL_LOG, PlanModel, line
from helpers.commands import run
from helpers.paths import EXAMPLE_PLANS
from store.test_embedded import pid_of

from ratelimit import Limiter
from ratelimit.cli.replay import command as replay_command
from ratelimit.store.embedded import EmbeddedServer

pytestmark = pytest.mark.slow

REAL_LOG = os.environ.get("RATELIMIT_ACCESS_LOG", "")
with_real_log = pytest.mark.skipif(
    not Path(REAL_LOG).is_file(),
    reason="RATELIMIT_ACCESS_LOG does not name an access log: real data is not part of the project",
)

PLANS = """
[plans.basic]
throttle = { rate = "1/2", burst = 2 }
quota = { limit = 4, period = "DAY" }
[plans.basic.stages."web/prod".throttles]
"GET /search" = { rate = 1, burst = 1 }
[plans.free]
stages = ["web/test"]
[plans.premium]
stages = ["web/prod", "web/test"]
[stages."web/prod".methods]
"GET /health" = { key_required = false }
"GET /slow" = { throttle = { rate = 1, burst = 2 } }
"""


@pytest.fixture
def files(tmp_path):
    """A plan file and a log of this name."""

    def written(log=SMALL_LOG, plans=PLANS, name="access.log"):
        path, plan_file = tmp_path / name, tmp_path / "plans.toml"
        path.write_bytes(log if isinstance(log, bytes) else log.encode())
        plan_file.write_text(plans, encoding="utf-8")
        return str(path), "--plan", str(plan_file)

    return written


def replay_json(*arguments):
    """What --json says, of a replay that succeeds."""
    result = run("replay", *arguments, "--json")
    assert (result.exit_code, result.exception) == (0, None), result.stderr
    return json.loads(result.stdout)


def tallies(plan):
    """(requests, admitted, throttled, over quota) of a plan."""
    return tuple(plan[name] for name in ("requests", "admitted", "throttled", "over_quota"))


class TestSmallLog:
    def test_each_request_is_decided_as_by_hand(self, files):
        """Totals, limits and clients of a log whose every decision is worked out in this file."""
        basic, premium = replay_json(*files(), "--stage", "web/prod")["plans"]
        hand = Counter(outcome for *_, outcome in SMALL)
        assert tallies(basic) == (13, hand["admitted"], hand["throttled"], hand["over quota"]) == (13, 8, 4, 1)
        assert basic["denied_by"] == {
            "plan:basic": 2,
            "plan:basic:GET /search": 1,
            "stage:web/prod:GET /slow": 1,
            "quota:basic": 1,
        }
        assert (basic["clients"], basic["clients_affected"]) == (3, 2)
        assert basic["most_affected"] == [
            {"client": "10.0.0.1", "requests": 9, "admitted": 5, "throttled": 3, "over_quota": 1, "not_listed": 0},
            {"client": "10.0.0.3", "requests": 2, "admitted": 1, "throttled": 1, "over_quota": 0, "not_listed": 0},
        ]
        # A plan without limits of its own meets the stage's alone, and none of what basic consumed.
        assert (premium["plan"], tallies(premium)) == ("premium", (13, 12, 1, 0))

    def test_the_first_stage_that_a_plan_opens_is_called(self, files):
        """Without --stage each plan is tried on its own first one."""
        plans = replay_json(*files())["plans"]
        assert [(plan["plan"], plan["stage"]) for plan in plans] == [
            ("basic", "web/prod"),
            ("free", "web/test"),
            ("premium", "web/prod"),
        ]

    def test_plans_that_do_not_open_the_stage_are_left_out(self, files):
        """--stage chooses the plans that open it, and the output names the others."""
        result = run("replay", *files(), "--stage", "web/test")
        assert result.exit_code == 0
        assert "Left out, because they do not open web/test: basic." in result.stdout.splitlines()

    def test_lines_are_sorted_by_their_time(self, files):
        """Any order of the seconds gives the same result, and the output says how many lines stood wrong."""
        in_order = replay_json(*files())
        by_second = sorted(SMALL, key=lambda item: -item[0])
        shuffled = replay_json(
            *files("".join(line(second, client, request) for second, client, request, _ in by_second))
        )
        assert shuffled["plans"] == in_order["plans"]
        assert (in_order["log"]["disordered"], shuffled["log"]["disordered"]) == (0, 3)
        result = run("replay", *files("".join(line(second) for second in (3, 1, 2))))
        assert "Sorted by time: 1 request came after a later one." in result.stdout

    def test_time_is_the_logs_own(self, files):
        """The same instants in another zone; the quota's day is UTC's, whatever the clock of this machine says."""
        log = line(1, zone="-0001") * 2 + line(1, zone="+0001") * 3
        result = replay_json(*files(log, "[plans.p]\nquota = { limit = 2, period = 'DAY' }\nstages = ['a/b']"))
        day = int(datetime(2026, 3, 4, tzinfo=UTC).timestamp())
        assert (result["log"]["first_second"], result["log"]["last_second"]) == (day - 59, day + 61)
        # Three fall on the day before, where two are admitted; the next day both of the others are.
        assert tallies(result["plans"][0]) == (5, 4, 0, 1)

    def test_packed_plain_and_piped_logs_are_the_same(self, files):
        """gzip is recognised by its content, and "-" reads standard input, packed or not."""
        plain = replay_json(*files())
        assert replay_json(*files(gzip.compress(SMALL_LOG.encode()), name="log.gz")) == plain
        assert replay_json(*files(gzip.compress(SMALL_LOG.encode()), name="log")) == plain
        _, *plan = files()
        command = [sys.executable, "-m", "ratelimit", "replay", "-", *plan, "--json"]
        for content in (SMALL_LOG.encode(), gzip.compress(SMALL_LOG.encode())):
            piped = subprocess.run(command, input=content, capture_output=True, check=True, timeout=60)
            assert json.loads(piped.stdout) == plain

    def test_malformed_lines_are_counted_and_left_out(self, files):
        """With the number of the first one; the rest of the log is replayed."""
        log = line(0) + "junk\n" + line(0) + "\n" + line(0)
        result = replay_json(*files(log))["log"]
        assert (result["lines"], result["requests"], result["malformed"], result["first_malformed"]) == (5, 3, 2, 2)
        result = run("replay", *files(log))
        assert "Left out: 2 malformed lines, the first is line 2." in result.stdout.splitlines()

    def test_the_output_for_people(self, files):
        """Exactly this, in 80 columns: what was read, totals, the most affected clients, the verdict."""
        result = run("replay", *files(), "--stage", "web/prod", "--top", "1")
        assert result.exit_code == 0
        assert [text.rstrip() for text in result.stdout.splitlines() if text.strip()] == [
            "13 requests of 3 clients, from 2026-03-04 00:00:00 to 2026-03-04 00:00:09 UTC.",
            "Left out, because they do not open web/prod: free.",
            " plan      requests   admitted   throttled   over quota   clients hit",
            " ────────────────────────────────────────────────────────────────────",
            " basic           13          8           4            1             2",
            " premium         13         12           1            0             1",
            "basic on web/prod: denied 2 by plan:basic, 1 by plan:basic:GET /search, 1 by",
            "stage:web/prod:GET /slow, 1 by quota:basic.",
            " client     requests   throttled   over quota   █ throttled ▒ over quota",
            " ───────────────────────────────────────────────────────────────────────",
            " 10.0.0.1          9           3            1   ██████████████████▒▒▒▒▒▒",
            "1 more client (see --top).",
            "premium on web/prod: denied 1 by stage:web/prod:GET /slow.",
            " client     requests   throttled   over quota   █ throttled ▒ over quota",
            " ───────────────────────────────────────────────────────────────────────",
            " 10.0.0.3          2           1            0   ████████████████████████",
            "EXACT: 26 decisions, each equal to the reference model.",
        ]

    def test_a_long_address_and_a_plain_terminal(self, files):
        """The longest IPv6 address fits into 80 columns, and a terminal without Unicode gets plain characters."""
        longest = "2001:0db8:1111:2222:3333:4444:5555:6666"
        command = [sys.executable, "-m", "ratelimit", "replay", *files(line(0, longest) * 5)]
        environment = {**os.environ, "COLUMNS": "80", "PYTHONIOENCODING": "ascii"}
        ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=environment)
        assert max(map(len, ran.stdout.splitlines())) <= 80
        assert "# throttled + over quota" in ran.stdout
        assert ran.stdout.isascii()

    def test_nobody_is_denied(self, files):
        """A plan that everybody stays within says so."""
        result = run("replay", *files(line(0)))
        assert "basic on web/prod: no request is denied." in result.stdout.splitlines()


class TestFaults:
    @pytest.mark.parametrize(
        ("plans", "options", "expected"),
        [
            ("", [], "has no plan: add a table [plans.<id>]"),
            ("[plans.gold]\n", [], 'plans.gold.stages: opens no stage: add stages = ["<api>/<stage>"]'),
            (PLANS, ["--stage", "web/nowhere"], "opens 'web/nowhere'; they open web/prod, web/test"),
            ("[plans.gold]\n", ["--stage", "web/prod"], "opens 'web/prod'; they open none"),
            ("[plans", [], "is not TOML: "),
        ],
    )
    def test_a_plan_file_that_cannot_be_used_says_why(self, files, plans, options, expected):
        """Exit code 2, the remedy on standard error, no traceback."""
        result = run("replay", *files(plans=plans), *options)
        assert expected in result.stderr
        assert (result.exit_code, result.stdout) == (2, "")
        assert isinstance(result.exception, SystemExit)

    @pytest.mark.parametrize(
        ("log", "name", "expected"),
        [
            ("", "log", "is empty"),
            ("one\ntwo\n", "log", "none of its 2 lines is a request"),
            (gzip.compress(SMALL_LOG.encode())[:-20], "log.gz", "is cut off: "),
            ("not packed", "log.gz", "is not gzip"),
        ],
    )
    def test_a_log_that_cannot_be_used_says_why(self, files, log, name, expected):
        """Exit code 2, the file and what is wrong with it, no traceback."""
        result = run("replay", *files(log, name=name))
        assert expected in result.stderr
        assert (result.exit_code, result.stdout) == (2, "")
        assert isinstance(result.exception, SystemExit)

    def test_a_log_that_is_not_there_says_so(self, files):
        """Exit code 2."""
        _, *plan = files()
        result = run("replay", "/nowhere/access.log", *plan)
        assert result.stderr == "Error: /nowhere/access.log: cannot be read: No such file or directory\n"
        assert result.exit_code == 2

    def test_a_limiter_that_is_not_exact_is_found_out(self, files, monkeypatch):
        """A limiter that counts every fifth request twice: the replay shows both answers and exits with 1."""
        honest, calls = Limiter.check, iter(range(1, 100))

        def twice(self, key, stage, method, cost=1):
            decision = honest(self, key, stage, method, cost)
            return honest(self, key, stage, method, cost) if next(calls) == 5 else decision

        monkeypatch.setattr(Limiter, "check", twice)
        plans = "[plans.p]\nthrottle = { rate = 1, burst = 100 }\nstages = ['a/b']"
        result = run("replay", *files(line(0) * 9, plans))
        assert result.exit_code == 1
        assert "NOT EXACT" in result.stdout
        assert not re.search(r"^EXACT", result.stdout, re.MULTILINE)
        joined = re.sub(r"\s+", " ", result.stdout)
        assert "request 5 of plan p, 2026-03-04 00:00:00 UTC: client 10.0.0.1, 'GET /'" in joined
        assert "limiter: admitted (limited by None, retry after None s; plan:p: 94 left, reset in 6.0 s)" in joined
        assert "model: admitted (limited by None, retry after None s; plan:p: 95 left, reset in 5.0 s)" in joined
        calls = iter(range(1, 100))
        data = json.loads(run("replay", *files(line(0) * 9, plans), "--json").stdout)
        assert data["exact"] is False
        assert data["difference"].startswith("request 5 of plan p, ")

    @pytest.mark.parametrize("after", [0, 5])
    def test_a_server_that_fails_ends_the_replay_with_3(self, files, monkeypatch, after):
        """Killed before the first request or in the middle: a message, no figures, no traceback."""
        servers = []

        class Watched(EmbeddedServer):
            def __init__(self):
                super().__init__()
                servers.append(self)
                if not after:
                    os.kill(pid_of(self.socket), signal.SIGKILL)

        honest, calls = Limiter.check, iter(range(100))

        def killing(self, *arguments):
            if after and next(calls) == after:
                os.kill(pid_of(servers[0].socket), signal.SIGKILL)
            return honest(self, *arguments)

        monkeypatch.setattr(replay_command, "EmbeddedServer", Watched)
        monkeypatch.setattr(Limiter, "check", killing)
        result = run("replay", *files())
        assert (result.exit_code, result.stdout) == (3, "")
        assert result.stderr.startswith("Error: Store")
        assert isinstance(result.exception, SystemExit)


# ----- the real log, and a model of its own: no code of the package takes part in what is expected


def real_requests():
    """(second, client, method) of each line of the real log, by time."""
    pattern = re.compile(r'^(\S+) \S+ \S+ \[(.+?)\] "(\S+) (\S+)')
    result = []
    with gzip.open(REAL_LOG, "rt", encoding="utf-8", errors="replace") as log:
        for text in log:
            client, time, verb, target = pattern.match(text).groups()
            second = int(datetime.strptime(time, "%d/%b/%Y:%H:%M:%S %z").timestamp())
            result.append((second, client, f"{verb} {target.split('?')[0]}"))
    return sorted(result, key=lambda item: item[0])


OUTCOMES = {"plan": "throttled", "quota": "over_quota", "method_not_listed": "not_listed"}
"""What a denial counts as, by the kind of what denies; those by a stage or the account are throttled as well."""


def expected(text, plan_id, stage_id, requests):
    """What --json has to say of a plan, with all clients."""
    model, denied = PlanModel(text, plan_id, stage_id), Counter()
    clients = defaultdict(lambda: dict.fromkeys(("requests", "admitted", *OUTCOMES.values()), 0))
    for second, client, method in requests:
        name = model.denied_by(second, client, method)
        denied[name] += 1
        outcome = "admitted" if name is None else OUTCOMES.get(name.partition(":")[0], "throttled")
        clients[client]["requests"] += 1
        clients[client][outcome] += 1
    affected = [
        {"client": client, **tally} for client, tally in clients.items() if tally["requests"] > tally["admitted"]
    ]
    affected.sort(key=lambda item: (item["admitted"] - item["requests"], item["client"]))
    del denied[None]
    total = {name: sum(tally[name] for tally in clients.values()) for name in next(iter(clients.values()))}
    return {
        "plan": plan_id,
        "stage": stage_id,
        **total,
        "clients": len(clients),
        "clients_affected": len(affected),
        "denied_by": dict(denied),
        "most_affected": affected,
    }


ALL_KINDS = """
account = { rate = "1/2", burst = 40 }
[plans.all]
throttle = { rate = "0.05", burst = 8 }
quota = { limit = 60, period = "WEEK" }
[plans.all.stages."web/prod".throttles]
"GET /favicon.ico" = { rate = "1/7", burst = 1 }
[stages."web/prod"]
throttle = { rate = "1/2", burst = 30 }
[stages."web/prod".methods]
"GET /robots.txt" = { key_required = false, throttle = { rate = "0.001", burst = 3 } }
"GET /style2.css" = { throttle = { rate = "1/10", burst = 2 } }
"""

HEADS = """
[plans.all]
throttle = { rate = "0.05", burst = 8 }
[plans.all.stages."web/prod".throttles]
"GET /" = { rate = "1/1000", burst = 1 }
[stages."web/prod"]
throttle = { rate = "1/2", burst = 30 }
unlisted = "deny"
[stages."web/prod".methods]
"HEAD /" = {}
"GET /style2.css" = {}
"GET /robots.txt" = { key_required = false, throttle = { rate = "0.001", burst = 3 } }
"""


@with_real_log
class TestRealLog:
    @pytest.fixture
    def requests(self):
        return real_requests()

    def test_the_example_plans(self, requests):
        """10,000 real requests through both plans of the example: every figure equals the model's."""
        result = replay_json(REAL_LOG, "--plan", str(EXAMPLE_PLANS), "--top", "2000")
        assert (result["log"]["requests"], result["log"]["malformed"]) == (10_000, 0)
        assert result["log"]["disordered"] == 4915
        assert result["exact"] is True
        text = EXAMPLE_PLANS.read_text(encoding="utf-8")
        for plan in result["plans"]:
            assert plan == expected(text, plan["plan"], "petstore/prod", requests)
        assert [tallies(plan) for plan in result["plans"]] == [(10_000, 9542, 237, 221), (10_000, 9697, 0, 303)]

    def test_every_kind_of_limit(self, requests, tmp_path):
        """Method entries, open methods, shared stage buckets and the account at once: every figure the model's."""
        path = tmp_path / "plans.toml"
        path.write_text(ALL_KINDS, encoding="utf-8")
        (plan,) = replay_json(REAL_LOG, "--plan", str(path), "--top", "2000")["plans"]
        assert plan == expected(ALL_KINDS, "all", "web/prod", requests)
        assert set(plan["denied_by"]) == {
            "plan:all",
            "plan:all:GET /favicon.ico",
            "stage:web/prod:*",
            "stage:web/prod:GET /robots.txt",
            "stage:web/prod:GET /style2.css",
            "account",
            "quota:all",
        }

    def test_heads_and_methods_that_are_denied(self, requests, tmp_path):
        """HEAD counts as GET in the plan, which does not list it; what nobody lists is denied: as by the model."""
        path = tmp_path / "plans.toml"
        path.write_text(HEADS, encoding="utf-8")
        (plan,) = replay_json(REAL_LOG, "--plan", str(path), "--top", "2000")["plans"]
        assert plan == expected(HEADS, "all", "web/prod", requests)
        heads = [second for second, _, method in requests if method == "HEAD /"]
        assert heads
        assert plan["denied_by"]["plan:all:GET /"] > 0
        assert plan["not_listed"] == plan["denied_by"]["method_not_listed"] > 5000
