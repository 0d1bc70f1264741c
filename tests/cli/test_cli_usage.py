"""`ratelimit usage` and `ratelimit top`: on every real server, against traffic that is written down by hand."""

import csv
import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from datetime import date, timedelta

import pytest
from helpers.commands import run

from ratelimit import Identity, Limiter, Quota, Throttle, UsagePlan

pytestmark = pytest.mark.slow

DAY_US = 86_400_000_000
STAGE = "petstore/prod"
# Per key: requests on the day before yesterday, yesterday and today. The quota is 5 a day.
TRAFFIC = {"Acme": (3, 7, 1), "=1+1": (0, 2, 6), "idle": (0, 0, 0)}


@pytest.fixture
def usage(server):
    return lambda *arguments, **options: run("usage", *arguments, RATELIMIT_URL=server.url, **options)


@pytest.fixture
def top(server):
    return lambda *arguments, **options: run("top", *arguments, RATELIMIT_URL=server.url, **options)


@pytest.fixture
def today(server):
    """The server's day; a test that midnight would spoil waits until it is over."""
    with server.client() as client:
        seconds = client.time()[0]
        if seconds % 86_400 > 86_370:
            time.sleep(31)
            seconds = client.time()[0]
    return date(1970, 1, 1) + timedelta(days=seconds // 86_400)


@pytest.fixture
def keys(server, today):
    """The keys of the plan gold, by name, with their traffic. Their days are the server's, by an injected clock."""
    noon = (today - date(1970, 1, 1)).days * DAY_US + 1
    now = [noon - 3 * DAY_US]
    with Limiter.from_url(server.url, deadline=2, clock=lambda: now[0]) as limiter:
        catalog = limiter.catalog
        catalog.put_plan(UsagePlan("gold", Throttle(1000, 1000), Quota(5, "DAY"), [STAGE]))
        catalog.put_plan(UsagePlan("free", stages=["toys/prod"]))
        made = {name: catalog.create_key(name, plans=["gold"], owner=f"+{name}") for name in TRAFFIC}
        for at in range(3):
            now[0] = noon - (2 - at) * DAY_US
            for name, requests in TRAFFIC.items():
                for _ in range(requests[at]):
                    limiter.check(made[name].value, STAGE, "GET /pets")
        limiter._tick()  # denials are added to Redis
    return made


def table(text):
    """The rows of a table as lists of words, without bars."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.strip().startswith("──"))
    rows = [line.split() for line in lines[start + 1 :]]
    return rows[: rows.index([])]


def bars(text):
    return [line.count("█") for line in text.splitlines() if line.count("20")]


class TestUsage:
    def test_days_of_a_plan(self, usage, keys, today):
        """The sums of all keys, a bar for each day in proportion to the largest, and a total."""
        result = usage("gold", "--from", str(today - timedelta(2)), "--to", str(today))
        assert (result.exit_code, result.stderr) == (0, "")
        days = [f"{today - timedelta(back):%a %Y-%m-%d}" for back in (2, 1, 0)]
        figures = [("3", "0"), ("7", "2"), ("6", "1")]
        assert [row[:4] for row in table(result.stdout)] == [
            [*day.split(), *each] for day, each in zip(days, figures, strict=True)
        ]
        assert bars(result.stdout) == [14, 32, 28]  # 32 * 3/7 and 32 * 6/7, rounded up
        assert result.stdout.splitlines()[0] == "Plan gold (1000/s, burst 1,000, 5 a day)"
        assert result.stdout.splitlines()[-1] == "16 used, 3 denied, by 2 keys of 3."

    def test_one_key(self, usage, keys, today):
        """Its own figures, and what was left at the end of each day."""
        key = keys["Acme"]
        result = usage("show", "gold", "--key", key.id, "--from", str(today - timedelta(2)))
        assert [row[2:5] for row in table(result.stdout)] == [["3", "0", "2"], ["5", "2", "0"], ["1", "0", "4"]]
        assert result.stdout.splitlines()[0] == f"Key {key.id} (Acme) in plan gold (1000/s, burst 1,000, 5 a day)"
        assert result.stdout.splitlines()[-1] == "9 used, 2 denied."

    def test_the_last_14_days_by_default(self, usage, keys, today):
        """Days without traffic have a line, too; --to alone moves the whole span."""
        rows = table(usage("gold").stdout)
        assert [row[1] for row in rows] == [str(today - timedelta(back)) for back in range(13, -1, -1)]
        rows = table(usage("gold", "--to", str(today - timedelta(1))).stdout)
        assert (rows[0][1], rows[-1][1], len(rows)) == (str(today - timedelta(14)), str(today - timedelta(1)), 14)

    @pytest.mark.parametrize("form", [[], ["--csv"], ["--json"]])
    def test_days_that_are_no_longer_kept_are_reported(self, usage, keys, today, form):
        """A warning on standard error from the first of them on, beside the answer: 0 may not be the truth there."""
        oldest = today - timedelta(90)
        result = usage("gold", "--from", str(oldest), *form)
        assert (result.exit_code, result.stderr) == (0, "")
        result = usage("gold", "--from", str(oldest - timedelta(1)), *form)
        assert (result.exit_code, str(oldest - timedelta(1)) in result.stdout) == (0, True)
        warning = f"Days before {oldest} are no longer kept: their usage is shown as 0."
        assert " ".join(result.stderr.split()) == warning

    def test_csv_has_a_line_for_each_key_and_day(self, usage, keys, today):
        """Names and owners that a spreadsheet would take for formulas have a single quote before them."""
        start = str(today - timedelta(1))
        rows = list(csv.DictReader(usage("gold", "--from", start, "--csv").stdout.splitlines()))
        assert list(rows[0]) == [
            "PlanId", "KeyId", "Name", "Owner", "Day", "Used", "Remaining", "Throttled", "QuotaExceeded",
        ]  # fmt: skip
        assert len(rows) == 6
        by_key = {(row["KeyId"], row["Day"]): row for row in rows}
        row = by_key[keys["=1+1"].id, str(today)]
        assert (row["Name"], row["Owner"]) == ("'=1+1", "'+=1+1")
        figures = [row[name] for name in ("PlanId", "Used", "Remaining", "Throttled", "QuotaExceeded")]
        assert figures == ["gold", "5", "0", "0", "1"]
        one = usage("gold", "--key", keys["idle"].id, "--from", start, "--csv").stdout.splitlines()
        assert one[1:] == [f'gold,{keys["idle"].id},idle,"\'+idle",{day},0,5,0,0' for day in (start, str(today))]

    def test_json(self, usage, keys, today):
        """Every key with its days, and refusals by reason."""
        data = json.loads(usage("gold", "--from", str(today), "--json").stdout)
        assert (data["plan"], data["from"], data["to"]) == ("gold", str(today), str(today))
        assert {each["key"]: each["days"] for each in data["keys"]} == {
            keys[name].id: [{"day": str(today), "used": used, "remaining": left, "denied": denied}]
            for name, used, left, denied in (
                ("Acme", 1, 4, {}),
                ("=1+1", 5, 0, {"QUOTA_EXCEEDED": 1}),
                ("idle", 0, 5, {}),
            )
        }

    def test_more_keys_than_one_page(self, usage, top, server):
        """501 keys, of which the last by id has been used: all are listed, and its units are in every total."""
        rows = "".join(f"tenantManyKeys{number:010},many,gold\n" for number in range(501))
        with Limiter.from_url(server.url, deadline=2) as limiter:
            limiter.catalog.put_plan(UsagePlan("gold", stages=[STAGE]))
            imported = limiter.catalog.import_keys(io.StringIO(f"Key,Name,UsagePlanIds\n{rows}"))
            value = f"tenantManyKeys{imported.ids.index(max(imported.ids)):010}"
            assert limiter.check(value, STAGE, "GET /pets", cost=7).allowed
        data = json.loads(usage("gold", "--json").stdout)
        assert [each["key"] for each in data["keys"]] == sorted(imported.ids)
        assert usage("gold").stdout.splitlines()[-1] == "7 used, 0 denied, by 1 key of 501."
        assert len(usage("gold", "--csv").stdout.splitlines()) == 1 + 501 * 14
        (busiest,) = json.loads(top("--json").stdout)["keys"]
        assert (busiest["key"], busiest["used"]) == (max(imported.ids), 7)

    def test_a_plan_without_quota_or_keys(self, usage, keys):
        """Nothing is left where nothing is limited; no key is no error."""
        result = usage("free")
        assert result.stdout.splitlines()[0] == "Plan free (unlimited)"
        assert result.stdout.splitlines()[-1] == "0 used, 0 denied, by 0 keys of 0."
        assert json.loads(usage("free", "--json").stdout)["keys"] == []
        assert len(usage("free", "--csv").stdout.splitlines()) == 1

    def test_ascii_bars_where_the_terminal_has_no_others(self, server, keys):
        """An encoding without the block character gets another one, in a process of its own."""
        command = [sys.executable, "-m", "ratelimit", "usage", "gold", "--url", server.url]
        environment = {**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "80"}
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)
        assert ran.returncode == 0, ran.stderr
        assert "#" * 32 in ran.stdout

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["none"], "plan_id: there is no plan 'none'"),
            (["gold", "--key", "nosuchkey"], "key_id: there is no key with the id 'nosuchkey'"),
            (["gold", "--from", "yesterday"], "'yesterday' is not a day: write YYYY-MM-DD"),
            (["gold", "--from", "2026-03-02", "--to", "2026-03-01"], "end: is before the start"),
            (["gold", "--from", "2020-01-01", "--to", "2026-03-01"], "end: is more than a year after the start"),
            (["gold", "--csv", "--json"], "--csv and --json exclude each other"),
            (["a\x1bb"], r"there is no plan 'a\x1bb'"),
            ([], "Usage: app usage [OPTIONS] PLAN | COMMAND"),
        ],
    )
    def test_wrong_usage(self, usage, keys, arguments, message):
        """Exit code 2 and a message, without a traceback."""
        result = usage(*arguments)
        assert result.exit_code == 2
        assert message in result.output

    def test_a_plan_may_be_called_like_a_command(self, usage, server):
        """`usage show show` shows the plan "show"."""
        with Limiter.from_url(server.url, deadline=2) as limiter:
            limiter.catalog.put_plan(UsagePlan("show"))
        assert usage("show", "show").stdout.startswith("Plan show (unlimited)")


class TestSetRemaining:
    def test_it_holds_and_can_be_run_twice(self, usage, keys, server):
        """More or less than it was, exactly so much; again the same."""
        key = keys["=1+1"]
        for left in (3, 3, 0, 7):
            result = usage("set-remaining", "gold", key.id, str(left))
            message = f"Key {key.id} has {left} left of plan gold (5 a day), until this window ends."
            assert (result.exit_code, result.stdout) == (0, f"{message}\n")
            with Limiter.from_url(server.url, deadline=2) as limiter:
                assert limiter.peek(key.value, STAGE, "GET /pets").limits[-1].remaining == left
        data = json.loads(usage("set-remaining", "gold", key.id, "1", "--json").stdout)
        assert data == {"plan": "gold", "key": key.id, "remaining": 1}

    def test_what_cannot_be(self, usage, keys):
        """An unknown plan or key, a plan without a quota, a number that is none: exit code 2."""
        key = keys["Acme"].id
        for arguments in (["none", key, "1"], ["gold", "nosuchkey", "1"], ["free", key, "1"], ["gold", key, "-1"]):
            assert usage("set-remaining", *arguments).exit_code == 2


class TestTop:
    def test_identities_are_denied_by_plan(self, top, server):
        """They have no key: what was denied to them stands above the table, with their plan."""
        with Limiter.from_url(server.url, deadline=2) as limiter:
            limiter.catalog.put_plan(UsagePlan("none", Throttle(0, 0), stages=["other/prod"]))
            for subject in ("user:1", "user:2"):
                limiter.check(Identity(subject, "none"), "other/prod", "GET /")
        assert top("--once").stdout.splitlines()[1] == "Denied without a valid key: 2 THROTTLED under none."

    def test_the_busiest_first(self, top, keys, server, today):
        """Keys that did something today, by units used, or by requests denied; strangers below the total."""
        with Limiter.from_url(server.url, deadline=2) as limiter:
            limiter.catalog.set_account_throttle(Throttle(1000, 1000))
            other = limiter.catalog.create_key("Busy", plans=["free"])
            for _ in range(9):
                limiter.check(other.value, "toys/prod", "GET /")
            limiter.check("tenantUnknownKey00000001", "toys/prod", "GET /")
        result = top("--once")
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout.splitlines()[0] == f"{today} (UTC): 15 used, 1 denied, by 3 keys."
        assert result.stdout.splitlines()[1] == "Denied without a valid key: 1 unknown."
        assert table(result.stdout) == [
            [other.id, "Busy", "free", "9", "0", "0"],
            [keys["=1+1"].id, "=1+1", "gold", "5", "0", "1", "0"],
            [keys["Acme"].id, "Acme", "gold", "1", "0", "0", "4"],
        ]
        by_denied = table(top("--once", "--by", "denied", "--limit", "2").stdout)
        assert [row[1] for row in by_denied] == ["=1+1", "Busy"]
        assert json.loads(top("--json", "--limit", "1").stdout) == {
            "day": str(today),
            "used": 15,
            "denied": 1,
            "denied_to_unknown": {"unknown": 1},
            "keys": [{"key": other.id, "plan": "free", "used": 9, "remaining": None, "throttled": 0, "over_quota": 0}],
        }

    def test_an_empty_day(self, top, server):
        """No catalogue at all is no error."""
        assert top("--once").stdout.splitlines()[1:] == ["No key was used today."]

    def test_without_a_terminal_it_looks_once(self, top, keys):
        """A pipe gets one table, as with --once."""
        assert top("--every", "0.1").stdout == top("--once").stdout

    def test_live_it_shows_the_rate_since_the_last_look(self, top, keys):
        """On a terminal: a column of units per second, empty at the first look, and the screen is drawn again."""
        result = top("--refreshes", "2", "--every", "0.1", FORCE_COLOR="1", NO_COLOR="1", TERM="xterm")
        assert result.exit_code == 0
        assert result.stdout.count("used/s") >= 2
        first, *_, last = [line for line in result.stdout.splitlines() if keys["Acme"].id in line]
        assert "0.0" not in first
        assert "0.0" in last

    def test_ctrl_c_ends_it_cleanly(self, server, keys):
        """On a real terminal, in a process of its own: exit code 0, the cursor is there again, no traceback."""
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "ratelimit", "top", "--url", server.url, "--every", "0.1"]
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
        with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
            os.close(theirs)
            try:
                seen = self.read_until(ours, b"Acme")
                process.send_signal(signal.SIGINT)
                seen += self.read_until(ours, None)
                assert process.wait(30) == 0
            finally:
                process.kill()
                os.close(ours)
        assert b"Traceback" not in seen
        assert seen.rstrip().endswith(b"\x1b[?25h")

    @staticmethod
    def read_until(terminal, text):
        """What a terminal shows, until it shows this text, or the other end is closed."""
        seen = b""
        while text is None or text not in seen:
            assert select.select([terminal], [], [], 30)[0], seen
            try:
                seen += os.read(terminal, 4096)
            except OSError:  # how Linux says that the other end is closed
                assert text is None, seen
                break
        return seen

    def test_a_server_that_is_not_there(self, tmp_path):
        """Exit code 3 and the remedy, for both commands."""
        for command in (["top", "--once"], ["usage", "gold"]):
            result = run(*command, "--url", f"unix://{tmp_path}/no.sock")
            assert (result.exit_code, "Is a server running at" in result.stderr) == (3, True)
