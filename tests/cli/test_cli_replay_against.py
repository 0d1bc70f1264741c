"""`ratelimit replay --against`: two plan files on one log, compared with an independent model."""

import json
from datetime import UTC, datetime

import pytest
from helpers.access_logs import SMALL, SMALL_LOG, PlanModel, line
from helpers.commands import run

pytestmark = pytest.mark.slow

BEFORE = """
[plans.basic]
throttle = { rate = "1/2", burst = 2 }
quota = { limit = 4, period = "DAY" }
[plans.basic.stages."web/prod".throttles]
"GET /search" = { rate = 1, burst = 1 }
[plans.old]
stages = ["web/prod"]
[plans.moved]
stages = ["web/test"]
[stages."web/prod".methods]
"GET /health" = { key_required = false }
"""
# A larger burst, a smaller quota, and a method of the stage that all callers share.
AFTER = """
[plans.basic]
throttle = { rate = "1/2", burst = 3 }
quota = { limit = 3, period = "DAY" }
stages = { "web/prod" = {} }
[plans.new]
stages = ["web/prod"]
[plans.moved]
stages = ["web/prod"]
[stages."web/prod".methods]
"GET /health" = { key_required = false }
"GET /slow" = { throttle = { rate = 1, burst = 1 } }
"""


@pytest.fixture
def files(tmp_path):
    """The arguments for a log and two plan files."""

    def written(log=SMALL_LOG, after=AFTER, before=BEFORE):
        paths = [tmp_path / name for name in ("access.log", "after.toml", "before.toml")]
        for path, text in zip(paths, (log, after, before), strict=True):
            path.write_text(text, encoding="utf-8")
        return str(paths[0]), "--plan", str(paths[1]), "--against", str(paths[2])

    return written


def replay_json(*arguments):
    result = run("replay", *arguments, "--json")
    assert (result.exit_code, result.exception) == (0, None), result.stderr
    return json.loads(result.stdout)


def denials(text):
    """Which limit denies each request, by the independent model of the small log, in order."""
    model = PlanModel(text, "basic", "web/prod")
    midnight = int(datetime(2026, 3, 4, tzinfo=UTC).timestamp())
    return [
        model.denied_by(midnight + second, client, request.partition("?")[0]) for second, client, request, _ in SMALL
    ]


def test_each_request_is_compared(files):
    """Totals of both sides and the requests that are decided differently, per plan and client, as by the model."""
    result = replay_json(*files())
    was, now = denials(BEFORE), denials(AFTER)
    (plan,) = result["plans"]
    for side, names in (("before", was), ("after", now)):
        assert plan[side] == {
            "requests": 13,
            "admitted": names.count(None),
            "throttled": sum(name is not None and not name.startswith("quota:") for name in names),
            "over_quota": names.count("quota:basic"),
            "not_listed": 0,
        }
    denied = [at for at in range(13) if was[at] is None and now[at] is not None]
    admitted = [at for at in range(13) if was[at] is not None and now[at] is None]
    assert (plan["plan"], plan["stage"]) == ("basic", "web/prod")
    assert (plan["newly_denied"], plan["newly_admitted"]) == (len(denied), len(admitted))
    assert denied
    assert admitted
    clients = {SMALL[at][1] for at in denied + admitted}
    assert {each["client"] for each in plan["most_changed"]} == clients
    for each in plan["most_changed"]:
        assert each["newly_denied"] == sum(SMALL[at][1] == each["client"] for at in denied)
        assert each["newly_admitted"] == sum(SMALL[at][1] == each["client"] for at in admitted)
    assert (result["exact"], result["difference"]) == (True, None)


def test_plans_of_one_file_alone_are_left_out(files):
    """Those that only one file has, and those that open other stages now; both are named."""
    arguments = files()
    assert replay_json(*arguments)["left_out"] == ["new", "moved", "old"]
    text = " ".join(run("replay", *arguments).stdout.split())
    assert "Left out, because only one of them has it on this stage: new, moved, old." in text


def test_the_table(files):
    """Both sides beside each other, and the clients for whom something changes."""
    _, _, after, _, before = arguments = files()
    result = run("replay", *arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert f"Before: {before}. After: {after}." in lines
    (plan,) = replay_json(*arguments)["plans"]
    for name, key in (("admitted", "admitted"), ("throttled", "throttled"), ("over quota", "over_quota")):
        change = plan["after"][key] - plan["before"][key]
        assert f"{name} {plan['before'][key]} {plan['after'][key]} {change:+}" in lines
    first = plan["most_changed"][0]
    denied = (side["throttled"] + side["over_quota"] for side in (first["before"], first["after"]))
    figures = (first["before"]["requests"], *denied, first["newly_denied"], first["newly_admitted"])
    assert " ".join([first["client"], *map(str, figures)]) in lines
    assert lines[-1] == "EXACT: 26 decisions, each equal to the reference model."
    assert "2 more clients (see --top)." in run("replay", *arguments, "--top", "1").stdout
    assert "denials of" not in run("replay", *arguments, "--top", "0").stdout


def test_the_same_file_changes_nothing(files):
    """No request is decided differently, and it says so."""
    arguments = files(before=AFTER)
    assert "basic on web/prod: each request is decided as before." in run("replay", *arguments).stdout
    assert [plan["newly_denied"] + plan["newly_admitted"] for plan in replay_json(*arguments)["plans"]] == [0, 0, 0]


def test_the_order_of_files_is_the_direction(files):
    """Exchanged, what was newly denied is newly admitted."""
    (there,) = replay_json(*files())["plans"]
    (back,) = replay_json(*files(after=BEFORE, before=AFTER))["plans"]
    assert (there["newly_denied"], there["newly_admitted"]) == (back["newly_admitted"], back["newly_denied"])
    assert (there["before"], there["after"]) == (back["after"], back["before"])


def test_nothing_in_common(files):
    """Exit code 2 with both files named."""
    result = run("replay", *files(before="[plans.x]\nstages = ['web/prod']"))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "before.toml: has no plan in common with" in result.stderr
    assert "after.toml that opens the same stage" in result.stderr


def test_a_wrong_file_is_reported_before_the_log_is_read(files, tmp_path):
    """The file against which is read as the other one is."""
    result = run("replay", *files(log="nonsense", before="[plans.x]\nthrotle = 1"))
    assert (result.exit_code, "plans.x.throtle: is not a field here" in result.stderr) == (2, True)


def test_a_difference_from_the_model_is_exit_code_1(files, monkeypatch):
    """Where limiter and model disagree there is no comparison, and both answers are shown."""
    monkeypatch.setattr("ratelimit.cli.reference.agree", lambda *_: False)
    result = run("replay", *files(log=line(1)))
    assert result.exit_code == 1
    assert "NOT EXACT: limiter and reference model differ; the replay ended there." in result.stdout
    data = json.loads(run("replay", *files(log=line(1)), "--json").stdout)
    assert (data["exact"], data["plans"]) == (False, [])
    assert data["difference"].startswith("request 1 of plan basic")
