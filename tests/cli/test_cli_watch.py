"""`ratelimit watch` and the entries that it reads: on every real server."""

import contextlib
import json
import select
import signal
import subprocess
import sys
from dataclasses import FrozenInstanceError
from datetime import UTC, date, datetime

import pytest
from helpers.commands import run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ratelimit import Limiter, Quota, StoreError, UsagePlan
from ratelimit.admin.alerts import Alert, alert_from

pytestmark = pytest.mark.slow

STAGE, STREAM = "petstore/prod", "ratelimit:alerts"
ENTRY = {
    "key": "k1",
    "plan": "gold",
    "percent": "80",
    "used": "81",
    "limit": "100",
    "window_day": "20513",
    "time_us": "1772625600000001",
}
ALERT = Alert("k1", "gold", 80, 81, 100, date(2026, 3, 1), 1772625600.000001)
START = f"Waiting for alerts on {STREAM}; press Ctrl-C to stop.\n"


class TestEntry:
    @pytest.mark.parametrize("encoded", [False, True])
    def test_an_entry_is_an_alert(self, encoded):
        """Texts or bytes, as the client decodes or does not; days and times in the units that the fields say."""
        entry = {name.encode(): text.encode() for name, text in ENTRY.items()} if encoded else ENTRY
        assert alert_from(entry) == ALERT
        assert datetime.fromtimestamp(int(ALERT.at), UTC).isoformat() == "2026-03-04T12:00:00+00:00"

    def test_an_alert_is_frozen(self):
        """No field of an alert can be changed."""
        with pytest.raises(FrozenInstanceError):
            alert_from(ENTRY).used = 1

    @pytest.mark.parametrize("missing", sorted(ENTRY))
    def test_what_is_missing_is_an_error(self, missing):
        """Each field is needed, and an unknown one beside them does no harm."""
        with pytest.raises(StoreError, match="an entry of the stream of alerts cannot be read"):
            alert_from({name: text for name, text in ENTRY.items() if name != missing})
        assert alert_from({**ENTRY, "more": "x"}) == ALERT

    # The first text takes as long as the table of all characters takes to be made.
    @settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
    @given(
        st.dictionaries(st.sampled_from(sorted(ENTRY)), st.text() | st.binary()).map(lambda some: {**ENTRY, **some}),
    )
    def test_noise_is_a_store_error(self, entry):
        """Whatever stands in the fields: an alert, or StoreError and nothing else."""
        with contextlib.suppress(StoreError):
            assert isinstance(alert_from(entry), Alert)


@pytest.fixture
def alerting(server, clock):
    """A limiter whose clock is injected, and a key of which every 5th of 10 requests reaches a share of its quota."""
    with Limiter.from_url(server.url, deadline=2, clock=clock) as limiter:
        limiter.catalog.put_plan(UsagePlan("gold", quota=Quota(10, "MONTH"), stages=[STAGE], alerts=[50, 100]))
        key = limiter.catalog.create_key("Acme", plans=["gold"])

        def spend(requests):
            for _ in range(requests):
                assert limiter.check(key.value, STAGE, "GET /pets").allowed

        spend.key = key
        yield spend


@pytest.fixture
def watch(server):
    """Run `ratelimit watch` on the server; what should come and does not fails the test after 10 s."""
    return lambda *arguments: run("watch", "--seconds", "10", *arguments, RATELIMIT_URL=server.url)


def line(alerting, percent, used):
    return f"2026-03-04 12:00:00  {percent:3}%  {alerting.key.id}  gold  {used} of 10 used since 2026-03-01"


def pending(server, group):
    with server.client(protocol=2) as client:
        return client.xpending(STREAM, group)["pending"]


class TestAlone:
    def test_all_that_is_kept(self, watch, alerting):
        """--from-start: one line for each alert, in order; twice the same, as nothing is acknowledged."""
        alerting(10)
        for _ in range(2):
            result = watch("--from-start", "--count", "2")
            assert (result.exit_code, result.stderr) == (0, START)
            assert result.stdout.splitlines() == [line(alerting, 50, 5), line(alerting, 100, 10)]

    @pytest.mark.parametrize("options", ["?protocol=3", "?decode_responses=True", "?protocol=3&decode_responses=True"])
    @pytest.mark.parametrize("group", [[], ["--group", "ops"]])
    def test_any_protocol_and_texts_or_bytes(self, watch, alerting, server, options, group):
        """Whatever the URL asks of the client: the same lines."""
        alerting(10)
        result = watch("--from-start", "--count", "2", "--url", f"{server.url}{options}", *group)
        assert result.stdout.splitlines() == [line(alerting, 50, 5), line(alerting, 100, 10)]

    def test_json_lines(self, watch, alerting, clock):
        """One document a line, with the names of the dataclass."""
        alerting(5)
        (line,) = watch("--from-start", "--count", "1", "--json").stdout.splitlines()
        assert json.loads(line) == {
            "key_id": alerting.key.id,
            "plan_id": "gold",
            "percent": 50,
            "used": 5,
            "limit": 10,
            "window_start": "2026-03-01",
            "at": clock.now_us / 1e6,
        }

    def test_the_count_is_exact(self, watch, alerting):
        """--count 1 of two prints one."""
        alerting(10)
        assert watch("--from-start", "--count", "1").stdout.splitlines() == [line(alerting, 50, 5)]

    def test_what_was_before_is_not_new(self, watch, alerting):
        """Without --from-start, what is on the stream already is not shown; --seconds ends it."""
        alerting(10)
        result = watch("--seconds", "0.05")
        assert (result.exit_code, result.stdout) == (0, "")

    def test_a_stream_that_does_not_exist(self, watch, server):
        """Nothing to show is no error, and nothing is made in Redis."""
        assert watch("--seconds", "0.05").exit_code == 0
        with server.client() as client:
            assert client.dbsize() == 0

    def test_an_entry_that_is_none_is_reported_and_passed_over(self, watch, alerting, server):
        """On standard error, with its id; the alerts around it are shown. Control codes are spelled out."""
        with server.client() as client:
            client.xadd(STREAM, {**ENTRY, "key": "k\x1b[2J1"}, id="1-1")
            client.xadd(STREAM, {"percent": "\x1bnone"}, id="1-2")
        alerting(5)
        result = watch("--from-start", "--count", "2")
        assert result.stdout.splitlines() == [
            r"2026-03-04 12:00:00   80%  k\x1b[2J1  gold  81 of 100 used since 2026-03-01",
            line(alerting, 50, 5),
        ]
        assert result.stderr == f"{START}1-2: an entry of the stream of alerts cannot be read (KeyError('key'))\n"


class TestGroup:
    def test_each_alert_goes_to_one_member_once(self, watch, alerting, server):
        """What is printed is acknowledged: a second run, of this member or another, gets what is new alone."""
        alerting(5)
        first = watch("--group", "ops", "--consumer", "a", "--from-start", "--count", "1")
        assert first.stdout.splitlines() == [line(alerting, 50, 5)]
        assert pending(server, "ops") == 0
        alerting(5)
        assert watch("--group", "ops", "--consumer", "b", "--count", "1").stdout.splitlines() == [
            line(alerting, 100, 10)
        ]
        for member in ("a", "b"):
            assert watch("--group", "ops", "--consumer", member, "--from-start", "--seconds", "0.05").stdout == ""

    def test_a_new_group_begins_now_by_default(self, watch, alerting):
        """Without --from-start it gets what comes after it was made, also while nobody reads."""
        alerting(5)
        assert watch("--group", "ops", "--seconds", "0.05").stdout == ""
        alerting(5)
        assert watch("--group", "ops", "--count", "1").stdout.splitlines() == [line(alerting, 100, 10)]
        assert watch("--group", "other", "--from-start", "--count", "2").stdout.count("\n") == 2

    def test_what_a_crash_left_is_shown_again(self, watch, alerting, server):
        """Given to this member and not acknowledged: it comes first; another member does not get it."""
        alerting(10)
        with server.client(protocol=2) as client:
            client.xgroup_create(STREAM, "ops", id="0")
            client.xreadgroup("ops", "a", {STREAM: ">"}, count=1)
        assert watch("--group", "ops", "--consumer", "b", "--seconds", "0.05").stdout.splitlines() == [
            line(alerting, 100, 10)
        ]
        assert pending(server, "ops") == 1
        assert watch("--group", "ops", "--consumer", "a", "--count", "1").stdout.splitlines() == [line(alerting, 50, 5)]
        assert pending(server, "ops") == 0

    def test_what_was_trimmed_meanwhile_is_acknowledged_unseen(self, watch, alerting, server):
        """An entry that the stream no longer keeps cannot be shown, and does not stand in the way."""
        alerting(10)
        with server.client(protocol=2) as client:
            client.xgroup_create(STREAM, "ops", id="0")
            ((_, entries),) = client.xreadgroup("ops", "a", {STREAM: ">"}, count=1)
            client.xdel(STREAM, entries[0][0])
        assert watch("--group", "ops", "--consumer", "a", "--count", "1").stdout.splitlines() == [
            line(alerting, 100, 10)
        ]
        assert pending(server, "ops") == 0

    def test_an_entry_that_is_none_is_acknowledged(self, watch, server):
        """Else it would come again for ever."""
        with server.client() as client:
            client.xadd(STREAM, {"nonsense": "1"}, id="1-1")
        result = watch("--group", "ops", "--from-start", "--seconds", "0.05")
        assert (result.exit_code, "1-1: an entry" in result.stderr) == (0, True)
        assert pending(server, "ops") == 0


@pytest.mark.parametrize(("options", "quiet"), [([], 1.4), (["--group", "ops", "--consumer", "a"], 0)])
def test_alerts_come_as_they_happen_until_ctrl_c(server, alerting, options, quiet):
    """In a process of its own: the line is there at once, also after a second of silence; Ctrl-C exits with 0."""
    command = [sys.executable, "-m", "ratelimit", "watch", "--url", server.url, "--deadline", "0.2", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stderr.readline().decode() == START
            # The server holds a prepared for a second, and it ends without an answer.
            assert select.select([process.stdout], [], [], quiet)[0] == []
            alerting(5)
            assert process.stdout.readline().decode() == line(alerting, 50, 5) + "\n"
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
            assert (process.stdout.read(), process.stderr.read()) == (b"", b"\n")
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--consumer", "a"], 2, "--consumer needs a group: give --group"),
        (["--count", "0"], 2, "'--count'"),
        (["--seconds", "0"], 2, "'--seconds'"),
        (["--namespace", "a b"], 2, "namespace: cannot be 'a b'"),
        (["--deadline", "0"], 2, "deadline: must be seconds above 0"),
        (["--url", "http://x"], 2, "url: cannot be used"),
        (["--url", "unix:///nowhere/no.sock"], 3, "Is a server running at unix:///nowhere/no.sock?"),
    ],
)
def test_wrong_usage_and_no_server(arguments, code, message):
    """2 or 3, a message, no traceback."""
    result = run("watch", *arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr
    assert isinstance(result.exception, SystemExit)


def test_a_stream_that_is_none(watch, server):
    """Something else under its name is a fault of the store, exit code 3."""
    with server.client() as client:
        client.set(STREAM, "text")
    for options in (["--from-start"], [], ["--group", "ops"]):
        result = watch(*options)
        assert (result.exit_code, "WRONGTYPE" in result.stderr) == (3, True)
