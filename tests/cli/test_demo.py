"""`ratelimit demo`: real processes and a real server; and what it says of a limiter that is not exact."""

import contextlib
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import replace
from multiprocessing.context import SpawnProcess
from pathlib import Path

import pytest
from helpers.commands import run
from store.test_embedded import is_running, pid_of

from ratelimit import Decision, Limiter, LimitStatus, Reason, UsagePlan
from ratelimit.cli import reference
from ratelimit.cli.demo import command as demo_command
from ratelimit.cli.demo import workers
from ratelimit.cli.demo.verify import verify
from ratelimit.cli.demo.workers import ReplicaLostError, SentRequest, Traffic, run_replicas
from ratelimit.engine.reference_model import ExpectedDecision, ExpectedLimit
from ratelimit.model import ApiKey
from ratelimit.registry.plan_documents import document_from
from ratelimit.store.embedded import EmbeddedServer

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "ratelimit", "demo"]
OUTCOMES = ["admitted", "throttled by plan", "throttled by stage", "over quota"]
NOW = 1_772_625_600_000_000


def figures(output):
    """(plan, outcome) -> (observed, exact), as the table shows them."""
    counts, plan = {}, ""
    for text in output.splitlines():
        row = re.match(r" (\w*) +(admitted|throttled by \w+|over quota) +([\d,]+) +([\d,]+) +(=|differs)", text)
        if row:
            plan = row[1] or plan
            counts[plan, row[2]] = tuple(int(number.replace(",", "")) for number in row.group(3, 4))
    return counts


def alive_in_group(group):
    """The names of the processes of a group, those aside that have ended and wait for their parent to look."""
    names = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = path.read_text().partition("(")[2].rpartition(")")
            state, _, its_group = rest.split()[:3]
            if its_group == str(group) and state not in "ZX":
                names.append(name)
    return names


class TestRun:
    def test_every_outcome_happens_and_every_decision_agrees(self):
        """The default traffic of 3 s: each outcome for each plan, observed equal to exact, exit code 0."""
        started = time.monotonic()
        ran = subprocess.run(COMMAND, capture_output=True, text=True, check=False, timeout=60)
        assert (ran.returncode, ran.stderr) == (0, "")
        counts = figures(ran.stdout)
        assert list(counts) == [(plan, outcome) for plan in ("Basic", "Premium") for outcome in OUTCOMES]
        for observed, exactly in counts.values():
            assert observed == exactly > 0
        decisions = sum(observed for observed, _ in counts.values())
        assert ran.stdout.splitlines()[0] == "4 gateway replicas on one embedded Valkey server: 2 plans, 6 API keys."
        assert f"EXACT: {decisions:,} decisions within 3." in ran.stdout
        assert max(map(len, ran.stdout.splitlines())) <= 80
        assert time.monotonic() - started < 30  # "about 10 s", with room for a busy machine

    def test_requests_are_counted_exactly(self):
        """--requests is the number of all replicas' decisions together, also where it does not divide evenly."""
        result = run("demo", "--replicas", "3", "--requests", "100", "--keys", "1")
        assert result.exit_code == 0, result.output
        assert sum(observed for observed, _ in figures(result.stdout).values()) == 100
        assert result.stdout.startswith("3 gateway replicas on one embedded Valkey server: 2 plans, 2 API keys.\n")
        assert "EXACT: 100 decisions within " in result.stdout

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--replicas", "0"],
            ["--seconds", "0"],
            ["--seconds", "nan"],
            ["--requests", "0"],
            ["--keys", "0"],
            ["--seconds", "1", "--requests", "1"],
        ],
    )
    def test_wrong_usage_exits_with_2(self, arguments):
        """Nothing is started."""
        result = run("demo", *arguments)
        assert (result.exit_code, result.stdout) == (2, "")

    @pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="looks for processes in /proc, which Linux has")
    def test_an_interrupt_leaves_nothing_behind(self):
        """Ctrl-C in the middle: no replica, no server, no folder and no traceback remains."""
        with tempfile.TemporaryDirectory() as folder:
            self.interrupt(Path(folder))
            assert list(Path(folder).iterdir()) == []

    def interrupt(self, folder):
        process = subprocess.Popen(
            [*COMMAND, "--seconds", "60", "--replicas", "2"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "TMPDIR": str(folder)},
        )
        assert process.stdout.readline().startswith("2 gateway replicas")
        (socket,) = folder.glob("ratelimit-*/valkey.sock")
        server = pid_of(str(socket))
        time.sleep(1)  # let the replicas come up, or be interrupted while they do
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, "Traceback" in errors) == (1, False), errors
        deadline = time.monotonic() + 20  # multiprocessing's own helper ends a moment after what it helps
        while alive_in_group(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert alive_in_group(process.pid) == []
        assert not is_running(server)


@pytest.fixture
def server():
    """A server with a catalogue: without one every check is 503."""
    with EmbeddedServer() as started:
        with Limiter.from_url(started.url) as limiter:
            limiter.catalog.put_plan(UsagePlan("free"))
        yield started


class TestReplicas:
    def traffic(self, server, **changes):
        """Ten requests of a key that does not exist."""
        made = Traffic(server.url, ("tenantUnknownKey00000001",), "a/b", ("GET /",), 1.0, 10, 2.0)
        return replace(made, **changes)

    def test_all_shots_of_all_replicas_arrive(self, server):
        """Each replica's own number of requests, batches or not."""
        progress = []
        parts = [self.traffic(server, requests=number) for number in (1, 64, 130)]
        requests = run_replicas(parts, lambda *counts: progress.append(counts))
        assert len(requests) == 195
        assert Counter(sent.decision.detail for sent in requests) == {"unknown": 195}
        assert progress[-1][0] == 195

    def test_replicas_differ(self, server):
        """Each has a seed of its own, and the same seed gives the same traffic."""
        wide = self.traffic(server, keys=tuple(f"tenantUnknownKey{n:08}" for n in range(50)), requests=40)
        one, other = ([sent.key for sent in run_replicas([wide], lambda *_: None)] for _ in range(2))
        assert one == other
        both = [sent.key for sent in run_replicas([wide, wide], lambda *_: None)]
        assert Counter(both) != Counter(one + one)

    def test_a_replica_that_does_not_start_is_reported(self, server, monkeypatch):
        """A command that never becomes ready ends with a message, exit code 1."""
        monkeypatch.setattr(workers, "_START_TIMEOUT", 0.0)
        with pytest.raises(ReplicaLostError, match="replica 1 did not start"):
            run_replicas([self.traffic(server)], lambda *_: None)

    def test_an_interrupt_while_one_starts(self, server, monkeypatch):
        """It ends the demo once that one has started, whatever thread of the parent the system hands the signal to."""
        started, is_over = [], threading.Event()
        other = threading.Thread(target=is_over.wait)

        def start(process):
            signal.pthread_kill(other.ident, signal.SIGINT)
            real_start(process)
            started.append(process)

        real_start = SpawnProcess.start
        monkeypatch.setattr(SpawnProcess, "start", start)
        other.start()
        with pytest.raises(KeyboardInterrupt):
            run_replicas([self.traffic(server)] * 2, lambda *_: None)
        is_over.set()
        assert [process.is_alive() for process in started] == [False]

    def test_a_replica_that_dies_is_reported(self, server):
        """Killed in the middle: its decisions are lost, so nothing can be shown, and that is said."""
        others = {child.pid for child in multiprocessing.active_children()}  # of other tests

        def kill_first(_shots, elapsed):
            replicas = {child.pid for child in multiprocessing.active_children()} - others
            if elapsed > 0.2 and replicas:
                os.kill(min(replicas), signal.SIGKILL)

        with pytest.raises(ReplicaLostError, match="ended before it had sent all its requests"):
            run_replicas([self.traffic(server, requests=None, seconds=20.0)] * 2, kill_first)

    def test_the_command_reports_it(self, monkeypatch):
        """The error of a lost replica is a message and exit code 1."""

        def lost(*_):
            raise ReplicaLostError("replica 2 ended before it had sent all its requests")

        monkeypatch.setattr(demo_command, "run_replicas", lost)
        result = run("demo")
        assert (result.exit_code, result.stderr) == (1, "Error: replica 2 ended before it had sent all its requests\n")


def changed(decision, **changes):
    """Return a decision that differs in what is named."""
    fields = ("reason", "limited_by", "retry_after", "limits", "detail", "source", "time_us", "cause", "error")
    return Decision(**({name: getattr(decision, name) for name in fields} | changes))


def tampered(monkeypatch, change):
    """Run a small demo whose decisions are changed before they are judged."""

    def driven(parts, on_progress):
        return change(sorted(run_replicas(parts, on_progress), key=lambda sent: sent.decision.time_us))

    monkeypatch.setattr(demo_command, "run_replicas", driven)
    return run("demo", "--replicas", "2", "--requests", "200", "--keys", "1")


class TestHonesty:
    def test_no_decision_is_no_success(self, monkeypatch):
        """Traffic too short for a single request proves nothing: said, and exit code 1."""
        monkeypatch.setattr(demo_command, "run_replicas", lambda *_: [])
        result = run("demo")
        assert result.exit_code == 1
        assert result.stdout.splitlines()[-1] == "NOT SHOWN: no decision was made. Give the traffic more time."

    def test_one_admission_too_many_is_found(self, monkeypatch):
        """The first denial, changed into an admission: red line, both answers, exit code 1."""

        def change(requests):
            at = next(number for number, sent in enumerate(requests) if not sent.decision.allowed)
            requests[at] = requests[at]._replace(
                decision=changed(requests[at].decision, reason=Reason.ALLOWED, limited_by=None)
            )
            return requests

        result = tampered(monkeypatch, change)
        assert result.exit_code == 1
        assert "NOT EXACT: 1 of 200 decisions differ. The first:" in result.stdout
        assert "observed: admitted (limited by None" in result.stdout
        assert "exact:    throttled (limited by plan:" in result.stdout
        assert "differs" in result.stdout
        assert not re.search(r"^EXACT", result.stdout, re.MULTILINE)

    def test_a_lost_admission_is_found(self, monkeypatch):
        """One admitted request that the verification does not get: what came after it does not fit."""
        result = tampered(monkeypatch, lambda requests: [sent for sent in requests if sent is not requests[0]])
        assert result.exit_code == 1
        assert "of 199 decisions differ. The first:\nno. " in result.stdout

    def test_a_wait_that_is_off_by_a_microsecond_is_found(self, monkeypatch):
        """Not only who is admitted is compared, but every number of the answer."""

        def change(requests):
            at = next(number for number, sent in enumerate(requests) if sent.decision.retry_after)
            wait = requests[at].decision.retry_after + 1e-6
            requests[at] = requests[at]._replace(decision=changed(requests[at].decision, retry_after=wait))
            return requests

        result = tampered(monkeypatch, change)
        assert result.exit_code == 1
        assert "NOT EXACT: 1 of 200 decisions differ." in result.stdout

    def test_an_unknown_outcome_is_not_passed_over(self, monkeypatch):
        """A decision without a time of the server cannot be compared with the reference model: exit code 1."""
        lost = Decision(Reason.UNAVAILABLE, source="fail_closed", cause="unknown", error="no answer")
        result = tampered(monkeypatch, lambda requests: [*requests, requests[0]._replace(decision=lost)])
        assert result.exit_code == 1
        stdout = re.sub(r"\s+", " ", result.stdout)
        assert (
            "NOT SHOWN: 1 decision without a time of the server, which cannot be compared with the reference model."
            in stdout
        )
        assert "The first: UNAVAILABLE by fail_closed: no answer" in stdout


DOCUMENT = document_from(
    {"plans": {"p": {"throttle": {"rate": 1, "burst": 1}, "stages": ["a/b"]}}},
)
KEYS = [ApiKey("id0", "one", plans=("p",)), ApiKey("id1", "two", plans=("p",))]


def bucket(remaining, reset_after, retry_after=0.0):
    return (LimitStatus("plan:p", 1, remaining, reset_after, retry_after, 1.0),)


def admitted(time_us):
    return Decision(Reason.ALLOWED, limits=bucket(0, 1.0), time_us=time_us)


def denied(time_us, wait):
    return Decision(Reason.THROTTLED, "plan:p", wait, bucket(0, wait, wait), time_us=time_us)


class TestVerification:
    def verify(self, *requests):
        return verify(
            DOCUMENT, KEYS, "a/b", [SentRequest(key, "GET /", 1, decision) for key, decision in requests], lambda: None
        )

    def test_the_servers_time_is_the_order(self):
        """Requests of several replicas in any order; in one microsecond the admitted one came first."""
        result = self.verify(
            (0, denied(NOW + 250_000, 0.75)),
            (0, denied(NOW, 1.0)),
            (1, admitted(NOW + 500_000)),
            (0, admitted(NOW)),
        )
        assert result.passed
        assert (result.decisions, result.agreeing, result.span_us) == (4, 4, 500_000)
        assert result.observed == result.exact == {("p", "admitted"): 2, ("p", "throttled by plan"): 2}

    def test_counts_that_agree_do_not_hide_a_difference(self):
        """The same totals, but the wrong one of two was admitted."""
        result = self.verify((0, denied(NOW, 1.0)), (0, admitted(NOW + 1)))
        assert (result.passed, result.agreeing) == (False, 0)
        assert result.observed == result.exact
        assert result.first_difference.startswith("no. 1, at 2026-03-04 12:00:00.000000 UTC: key one, GET /, cost 1\n")

    def test_nothing_at_all_shows_nothing(self):
        """Without a single decision there is no difference, and no success either."""
        result = self.verify()
        assert (result.passed, result.span_us, result.first_difference) == (False, 0, None)


class TestComparison:
    VERDICT = ExpectedDecision(
        allowed=False, limited_by="plan:p", retry_us=750_000, limits=(ExpectedLimit("plan:p", 0, 750_000, 750_000),)
    )
    DECISION = denied(NOW, 0.75)

    def test_equal_answers_agree(self):
        """The same outcome, limit, waits and states."""
        assert reference.agree(self.DECISION, self.VERDICT)

    @pytest.mark.parametrize(
        "changes",
        [
            {"reason": Reason.QUOTA_EXCEEDED},
            {"reason": Reason.INVALID_KEY},
            {"reason": Reason.UNAVAILABLE},
            {"limited_by": "account"},
            {"retry_after": None},
            {"retry_after": 0.750001},
            {"limits": ()},
            {"limits": bucket(1, 0.75, 0.75)},
            {"limits": bucket(0, 0.76, 0.75)},
            {"limits": bucket(0, 0.75, None)},
            {"limits": bucket(0, 0.75, 0.75) * 2},
        ],
    )
    def test_any_part_that_differs_is_a_difference(self, changes):
        """Each single part of the decision counts."""
        assert not reference.agree(changed(self.DECISION, **changes), self.VERDICT)

    def test_the_model_skips_the_plan_for_open_methods(self):
        """A method with key_required = false meets the stage's limits alone, as in the limiter."""
        data = {
            "plans": {"p": {"throttle": {"rate": 1, "burst": 1}, "stages": ["a/b"]}},
            "stages": {"a/b": {"methods": {"GET /open": {"key_required": False}}}},
        }
        model = reference.ReferenceLimiter(document_from(data))
        assert [limit.name for limit in model.check("k", "p", "a/b", "GET /open", 1, NOW).limits] == []
        assert [limit.name for limit in model.check("k", "p", "a/b", "GET /x", 1, NOW).limits] == ["plan:p"]
