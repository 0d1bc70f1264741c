"""The version before beside this one on one Redis, as while a new one is rolled out: every sum is exact.

The version before is the wheel of the commit in previous_version.txt, built from the history of this repository.
"""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest
from helpers.paths import ROOT
from helpers.processes import PATIENCE_S

pytestmark = pytest.mark.slow

WORKER = Path(__file__).parent / "two_versions_worker.py"
COMMIT = (Path(__file__).parent / "previous_version.txt").read_text(encoding="utf-8").split()[0]
STAGE, METHOD = "petstore/prod", "GET /pets/{id}"
VALUES = [f"my-own-key-value-{number:04}" for number in range(4)]
VERSIONS = ("before", "this")
UNITS = 200
_namespaces = (f"n{number}" for number in count())


def ran(*command, **options):
    """The standard output of a command that has to succeed."""
    completed = subprocess.run(command, capture_output=True, check=False, timeout=120, **options)
    assert completed.returncode == 0, f"{command}\n{completed.stdout.decode()}\n{completed.stderr.decode()}"
    return completed.stdout


@pytest.fixture(scope="session")
def before(tmp_path_factory):
    """The folder in which the version before is installed."""
    completed = subprocess.run(
        ("git", "cat-file", "-e", f"{COMMIT}^{{commit}}"), cwd=ROOT, check=False, capture_output=True
    )
    if completed.returncode != 0:
        reason = (
            f"there is no commit {COMMIT} here (a source distribution, or a shallow clone): no version before to test"
        )
        shallow = ran("git", "rev-parse", "--is-shallow-repository", cwd=ROOT) if (ROOT / ".git").exists() else b"true"
        if shallow.strip() != b"true":
            pytest.fail(reason)
        pytest.skip(reason)
    source, target = (tmp_path_factory.mktemp(name) for name in ("source", "before"))
    ran("tar", "x", "-C", source, input=ran("git", "archive", COMMIT, cwd=ROOT))
    ran(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", target / "dist", source)
    (wheel,) = (target / "dist").glob("*.whl")
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-deps")
    ran(*pip, "--target", target / "site", wheel)
    return target / "site"


class Worker:
    """A process of one version: `worker.check(...)` has it do that, `begin` and `end` without waiting in between."""

    def __init__(self, process):
        self.process = process

    def begin(self, deed, *args, **keywords):
        self.process.stdin.write(f"{json.dumps([deed, args, keywords])}\n")
        self.process.stdin.flush()

    def end(self):
        line = self.process.stdout.readline()
        assert line, "the process has ended"
        return json.loads(line)

    def __getattr__(self, deed):
        def do(*args, **keywords):
            self.begin(deed, *args, **keywords)
            return self.end()

        return do


@contextmanager
def worker(server, folder):
    command = (sys.executable, "-X", "faulthandler", WORKER, f"unix://{server.socket}")
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, cwd=folder, **pipes) as process:
        made = Worker(process)
        made.open(next(_namespaces))
        assert Path(made.where()).parent.parent == folder
        yield made
        process.stdin.close()
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # with `-X faulthandler`, it shows where it stands


@pytest.fixture(scope="module")
def processes(running, before):
    """Two processes of each version on each server, by version; started once, each test has a namespace of its own.

    They end with these tests: their heartbeats would reach servers that other tests expect to be empty.
    """
    with ExitStack() as stack:
        folders = {"before": before, "this": ROOT}

        def start(server):
            return {
                version: [stack.enter_context(worker(server, folder)) for _ in range(2)]
                for version, folder in folders.items()
            }

        yield {name: start(server) for name, server in running.items()}


@pytest.fixture
def workers(server, processes):
    """Two processes of each version in an empty namespace, by version."""
    workers = processes[server.name]
    at_once(workers, "open", next(_namespaces))
    return workers


def all_of(workers):
    return [each for version in VERSIONS for each in workers[version]]


def at_once(workers, deed, *args):
    """Have all of them do the same at once; what each says."""
    everybody = all_of(workers)
    for each in everybody:
        each.begin(deed, *args)
    return [each.end() for each in everybody]


def days():
    """From yesterday to tomorrow: the tests may run over a midnight."""
    today = datetime.now(UTC).date()
    return [str(today - timedelta(days=1)), str(today + timedelta(days=1))]


def until(condition, seconds=5):
    """Wait for what comes by a push."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


NEVER = ["1/100000", UNITS]
"""A bucket that gets no token in the time of a test: what passes is counted exactly."""
AMPLE = ["1000000", 1_000_000]
LIMITS = {
    "plan:gold": {"throttle": NEVER},
    "quota:gold": {"throttle": AMPLE, "quota": UNITS},
    f"stage:{STAGE}:*": {"stage": NEVER},
    "account": {"account": NEVER},
}


def set_up(one, limits, lease=0):
    """Put a plan and what all callers share; return the id of a key."""
    one.put_plan({"id": "gold", "throttle": AMPLE, "stages": [STAGE], "lease": lease, **limits})
    one.put_stage(STAGE, limits.get("stage", AMPLE))
    one.account(limits.get("account", AMPLE))
    return one.create_key(VALUES[0], ["gold"])


@pytest.mark.parametrize("by", VERSIONS)
@pytest.mark.parametrize("name", LIMITS)
def test_sums_are_exact(name, by, workers):
    """Four processes of two versions, whoever has set it up: as many pass as the limit says, and are counted."""
    key_id = set_up(workers[by][0], LIMITS[name])
    decisions = at_once(workers, "check", VALUES[0], STAGE, METHOD, 100)
    assert sum(admitted for admitted, _ in decisions) == UNITS
    assert {limit for _, limits in decisions for limit in limits} == {name}
    used = at_once(workers, "usage", "gold", key_id, days())
    assert [times for times, _ in used] == [UNITS] * 4
    lefts = at_once(workers, "left", VALUES[0], STAGE, METHOD)
    assert [left[name] for left in lefts] == [0] * 4


@pytest.mark.parametrize("by", VERSIONS)
@pytest.mark.parametrize("name", LIMITS)
def test_sums_are_exact_with_leases(name, by, workers):
    """What was admitted and what is left are what there was, once all have given back what they held."""
    at_once(workers, "open", namespace := next(_namespaces))
    key_id = set_up(workers[by][0], LIMITS[name], lease=0.5)
    decisions = at_once(workers, "check", VALUES[0], STAGE, METHOD, 40)
    at_once(workers, "open", next(_namespaces))  # ends what they held
    admitted = sum(times for times, _ in decisions)
    assert admitted > 100
    at_once(workers, "open", namespace)
    used = at_once(workers, "usage", "gold", key_id, days())
    assert [times for times, _ in used] == [admitted] * 4
    lefts = {left[name] for left in at_once(workers, "left", VALUES[0], STAGE, METHOD)}
    # What a bucket refilled while units were held is not given back on top: less than a token.
    assert lefts <= ({UNITS - admitted} if name == "quota:gold" else {UNITS - admitted, UNITS - admitted - 1})


@pytest.mark.parametrize("by", VERSIONS)
def test_a_change_of_a_key_is_obeyed_by_the_next_check(by, workers):
    """Made by one version, obeyed by the other, and by itself."""
    admin = workers[by][1]
    key_id = set_up(workers[by][0], {})
    admin.put_plan({"id": "silver", "throttle": AMPLE, "stages": ["other/prod"]})

    def seen(value):
        return at_once(workers, "check", value, STAGE, METHOD)

    assert seen(VALUES[0]) == [[1, []]] * 4
    admin.update_key(key_id, enabled=False)
    assert seen(VALUES[0]) == [[0, ["disabled"]]] * 4
    admin.update_key(key_id, enabled=True)
    assert seen(VALUES[0]) == [[1, []]] * 4
    admin.rotate_key(key_id, VALUES[1])
    assert seen(VALUES[0]) == [[0, ["unknown"]]] * 4
    assert seen(VALUES[1]) == [[1, []]] * 4
    admin.move_key(key_id, "gold", "silver")
    assert seen(VALUES[1]) == [[0, ["no_plan_for_stage"]]] * 4
    admin.move_key(key_id, "silver", "gold")
    assert seen(VALUES[1]) == [[1, []]] * 4
    assert [times for times, _ in at_once(workers, "usage", "gold", key_id, days())] == [16] * 4
    admin.delete_key(key_id)
    assert seen(VALUES[1]) == [[0, ["unknown"]]] * 4
    admin.create_key(VALUES[1], ["gold"])
    until(lambda: seen(VALUES[1]) == [[1, []]] * 4)


@pytest.mark.parametrize("by", VERSIONS)
def test_a_change_of_plans_is_obeyed_by_all(by, workers):
    """Pushed by one version, heard by the other: the quota that is left is that of the new plan, everywhere."""
    key_id = set_up(workers[by][0], {"quota": UNITS})
    admin = workers[by][1]
    assert at_once(workers, "check", VALUES[0], STAGE, METHOD, 10) == [[10, []]] * 4

    def left(value):
        return [left["quota:gold"] for left in at_once(workers, "left", VALUES[0], STAGE, METHOD)] == [value] * 4

    assert left(160)
    admin.put_plan({"id": "gold", "throttle": AMPLE, "stages": [STAGE], "quota": 100})
    until(lambda: left(60))
    admin.set_remaining("gold", key_id, 7)
    until(lambda: left(7))
    decisions = at_once(workers, "check", VALUES[0], STAGE, METHOD, 5)
    assert sum(times for times, _ in decisions) == 7


def test_both_change_keys_at_once(workers):
    """Each change holds, whichever version makes it: two hundred of four processes, and none is lost."""
    key_id = set_up(workers["this"][0], {})
    for turn in range(50):
        everybody = all_of(workers)
        fields = ({"name": f"name {turn}"}, {"owner": f"owner {turn}"}, {"description": f"{turn}"}, {"enabled": True})
        for each, changed in zip(everybody, fields, strict=True):
            each.begin("update_key", key_id, **changed)
        assert [each.end() for each in everybody] == [key_id] * 4
        assert workers[VERSIONS[turn % 2]][0].check(VALUES[0], STAGE, METHOD) == [1, []]
