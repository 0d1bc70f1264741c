"""`ratelimit keys`, without files: on every real server, with exact output and exit codes."""

import json
import os
import pty
import re
import subprocess
import sys
import time

import pytest
from helpers.commands import run

from ratelimit import Limiter, NotFound, PlanStage, Quota, Stage, Throttle, UsagePlan
from ratelimit.cli import options
from ratelimit.registry.key_values import GENERATED_VALUE

pytestmark = pytest.mark.slow

STAGE = "petstore/prod"
OWN = "tenantOwnKey000000000001"


@pytest.fixture
def catalog(server):
    with Limiter.from_url(server.url, deadline=2) as limiter:
        catalog = limiter.catalog
        catalog.put_plan(UsagePlan("gold", Throttle(10, 5), Quota(100, "DAY"), [PlanStage(STAGE)]))
        catalog.put_plan(UsagePlan("silver", stages=[STAGE]))
        catalog.put_plan(UsagePlan("other", stages=["toys/prod"]))
        yield catalog


@pytest.fixture
def allowed(catalog, server):
    """Whether a value is admitted by a limiter that knows nothing yet."""

    def is_allowed(value):
        with Limiter.from_url(server.url, deadline=2) as limiter:
            return limiter.peek(value, STAGE, "GET /pets").allowed

    return is_allowed


@pytest.fixture
def keys(server):
    """Run `ratelimit keys` on the server."""
    return lambda *arguments, **options: run("keys", *arguments, RATELIMIT_URL=server.url, **options)


@pytest.fixture
def as_json(keys):
    """What `ratelimit keys ... --json` says."""

    def json_of(*arguments, **options):
        result = keys(*arguments, "--json", **options)
        assert (result.exit_code, result.exception) == (0, None), result.stderr
        return json.loads(result.stdout)

    return json_of


@pytest.fixture
def answering(monkeypatch):
    """Pretend that there is a terminal to ask at."""
    monkeypatch.setattr(options, "is_terminal", lambda: True)


def rows(text):
    """The cells of a table, columns being two blanks apart at least."""
    lines = [line.strip() for line in text.splitlines()]
    start = next(number for number, line in enumerate(lines) if line.startswith("──"))
    return [line.split("   ") for line in lines[start + 1 : lines.index("", start)]]


class TestCreate:
    def test_the_value_is_shown_once_and_works(self, keys, catalog, allowed):
        """The key's id and name on one line, its value on the next, and the warning beside it on standard error."""
        result = keys("create", "Acme", "--plan", "gold")
        (key,) = catalog.keys()
        first, second = result.stdout.splitlines()
        assert (result.exit_code, first) == (0, f"Created key {key.id} (Acme), plans: gold.")
        value = second.removeprefix("value  ")
        assert result.stderr == "The value is shown only this once and stored nowhere: save it now.\n"
        assert allowed(value)
        assert all(value not in keys(*command).output for command in (["list"], ["show", key.id], ["export"]))

    def test_all_that_can_be_said_is_stored(self, as_json, catalog):
        """Every option of create, printed as JSON, is what the catalogue holds."""
        options = ["--plan", "gold", "--plan", "other", "--disabled", "--expires", "2027-01-31T12:00"]
        made = as_json(
            "create", "Acme", *options, "--owner", "o@acme", "--description", "d", "--tag", "a=b=c", "--tag", "d="
        )
        (key,) = catalog.keys()
        value = made.pop("value")
        assert made == {
            "id": key.id,
            "name": "Acme",
            "enabled": False,
            "plans": ["gold", "other"],
            "created_at": key.created_at,
            "expires_at": 1801396800.0,
            "description": "d",
            "owner": "o@acme",
            "tags": {"a": "b=c", "d": ""},
        }
        assert made == as_json("show", key.id)
        assert (key.expires_at, key.tags) == (1801396800.0, {"a": "b=c", "d": ""})
        assert re.fullmatch(GENERATED_VALUE, value)

    @pytest.mark.parametrize("how", ["stdin", "env"])
    def test_an_own_value_comes_by_a_way_that_others_cannot_see_and_is_not_printed(self, keys, catalog, allowed, how):
        """From standard input or the environment; whoever gave it knows it."""
        for value, more in ((OWN, []), (f"{OWN}2", ["--json"]), (OWN, [])):
            given = {"stdin": f"{value}\nnot this\n"} if how == "stdin" else {options.NEW_VALUE: value}
            result = keys("create", "Acme", "--plan", "gold", "--value-from", how, *more, **given)
            assert OWN not in result.output
        # The third was the first again.
        assert result.exit_code == 2
        assert result.stderr.startswith("Error: value: a key with this value exists already, its id is ")
        assert len(catalog.keys()) == 2
        assert [allowed(OWN), allowed(f"{OWN}2")] == [True, True]

    def test_a_key_that_has_expired_already_is_reported(self, keys):
        """A wrong year is an easy mistake; a moment that is to come is not warned of."""
        assert "This key has already expired" in keys("create", "Acme", "--expires", "2020-01-01").stderr
        assert "expired" not in keys("create", "Acme", "--expires", "2190-01-01").stderr

    def test_a_key_in_no_plan_is_reported(self, keys):
        """What to do next, where a key opens nothing yet."""
        assert "plans: none yet (see `ratelimit keys add`)." in keys("create", "Acme").stdout

    def test_a_variable_alone_gives_no_value(self, keys, allowed):
        """Without --value-from the value is generated, whatever the environment holds."""
        keys("create", "--plan", "gold", RATELIMIT_NEW_VALUE=OWN, RATELIMIT_KEY=OWN, stdin=OWN)
        assert not allowed(OWN)

    @pytest.mark.parametrize(
        ("arguments", "stdin", "message"),
        [
            (["--value-from", "stdin"], "", "no value for the key: standard input is empty"),
            (["--value-from", "env"], None, "no value for the key: RATELIMIT_NEW_VALUE is not set"),
            (["--value-from", "stdin"], "short\n", "value: must be 20 to 128 visible ASCII characters"),
            (["a\x1b[31mb"], None, r"name: holds control characters ('a\x1b[31mb'): remove them"),
            (["--plan", "none"], None, "plan_id: there is no plan 'none'"),
            (["--plan", "gold", "--plan", "silver"], None, "a key may be in one plan per stage"),
            (["--tag", "ab"], None, "'ab' is not a tag: write NAME=TEXT"),
            (["--tag", "a=b", "--tag", "a=c"], None, "the tag 'a' is given twice: give it once"),
            (["--expires", "soon"], None, "'soon' is not a date or time: write 2027-01-31"),
            (["--expires", "1970-01-01"], None, "expires_at: must be seconds since 1970"),
            (["--value", OWN], None, "No such option"),
        ],
    )
    def test_what_cannot_be_is_refused(self, keys, catalog, arguments, stdin, message):
        """Exit code 2, a message without a traceback and without control codes, and no key."""
        result = keys("create", *arguments, stdin=stdin)
        assert (result.exit_code, result.stdout) == (2, "")
        assert message in result.stderr
        assert "\x1b" not in result.output
        assert catalog.keys() == []


class TestList:
    def test_pages_and_prefixes(self, keys, as_json, catalog):
        """The newest first; each page says where to go on; a prefix of names chooses; --all has no pages."""
        names = ["alpha 1", "beta", "alpha 2", "alpha 3"]
        ids = [catalog.create_key(name).id for name in names]
        page = as_json("list", "--limit", "3")
        assert [key["name"] for key in page["keys"]] == ["alpha 3", "alpha 2", "beta"]
        rest = as_json("list", "--limit", "3", "--cursor", page["cursor"])
        assert ([key["id"] for key in rest["keys"]], rest["cursor"]) == ([ids[0]], None)
        assert [key["name"] for key in as_json("list", "--prefix", "alpha")["keys"]] == [
            "alpha 3",
            "alpha 2",
            "alpha 1",
        ]
        assert len(as_json("list", "--all")["keys"]) == 4
        last = keys("list", "--limit", "1").stdout.splitlines()[-1]
        assert last.startswith("There are more: --cursor ")
        assert keys("list", "--limit", "1", *last.split()[-2:]).stdout.count("alpha 2") == 1

    def test_the_table(self, keys, catalog):
        """Id, name, state, plans, and the days on which it was made and expires."""
        key = catalog.create_key("Acme", plans=["gold", "other"], expires_at=1801396800)
        other = catalog.create_key("", enabled=False)
        made = time.strftime("%Y-%m-%d", time.gmtime(key.created_at))
        cells = [" ".join(row).split() for row in rows(keys("list").stdout)]
        assert cells == [
            [other.id, "disabled", made],
            [key.id, "Acme", "enabled", "gold,", "other", made, "2027-01-31"],
        ]

    def test_a_name_that_others_wrote_cannot_move_the_terminal(self, keys, catalog, server):
        """Control characters that are in a record nevertheless are spelled out, in tables and in JSON."""
        key = catalog.create_key("NAME")
        with server.client() as client:
            name = f"ratelimit:{{{key.id}}}:record"
            client.set(name, client.get(name).replace(b"NAME", rb"a\u001b[2Jb\nc\u202e"))
        for command in (["list"], ["show", key.id], ["disable", key.id], ["opens", key.id]):
            printed = keys(*command).output
            assert r"a\x1b[2Jb\nc\u202e" in printed
            assert "\x1b" not in printed
            assert "\u202e" not in printed
        assert "\x1b" not in keys("list", "--json").output

    def test_nothing_is_said_to_be_nothing(self, keys, catalog):
        """No key at all, and none of this name."""
        assert keys("list").stdout == "No keys.\n"
        assert keys("list", "--prefix", "x").stdout == "No key has such a name.\n"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--cursor", "nonsense"], "cursor: invalid cursor 'nonsense': pass that of the page before"),
            (["--all", "--cursor", "1:a"], "--all and --cursor exclude each other: give one of them"),
            (["--limit", "0"], "'--limit'"),
        ],
    )
    def test_wrong_usage(self, keys, catalog, arguments, message):
        """Exit code 2 and a message."""
        result = keys("list", *arguments)
        assert result.exit_code == 2
        assert message in result.stderr


class TestChange:
    def test_update_changes_what_is_given(self, as_json, catalog):
        """What is not given stays; tags are replaced as a whole."""
        key = catalog.create_key("Acme", owner="o", tags={"a": "1"}, expires_at=1801396800)
        assert as_json("update", key.id, "--name", "New", "--tag", "b=2")["tags"] == {"b": "2"}
        changed = as_json("update", key.id, "--expires", "never", "--no-tags", "--description", "")
        assert (changed["name"], changed["owner"], changed["tags"], changed["expires_at"]) == ("New", "o", {}, None)
        assert catalog.get_key(key.id).name == "New"

    def test_a_key_that_has_expired_is_shown_so(self, keys, catalog):
        """By the server's clock, in the list and alone; one that expires later is enabled, one that is disabled so."""
        key = catalog.create_key("Acme", expires_at=1801396800)
        shown = {"expired": {"expires_at": 1}, "enabled": {"expires_at": 2**33 - 1}, "disabled": {"enabled": False}}
        for state, change in shown.items():
            catalog.update_key(key.id, **change)
            assert [state] == [line.split()[1] for line in keys("show", key.id).stdout.splitlines() if "state" in line]
            assert f" {state} " in keys("list").stdout
        catalog.update_key(key.id, enabled=True)
        assert "state    expired" in keys("update", key.id, "--expires", "2001-01-01").stdout

    def test_update_of_nothing_is_wrong_usage(self, keys, catalog):
        """It says what to give; two options that exclude each other are refused."""
        key = catalog.create_key()
        assert "nothing to change: give an option" in keys("update", key.id).stderr
        result = keys("update", key.id, "--no-tags", "--tag", "a=b")
        assert (result.exit_code, "--tag and --no-tags exclude each other" in result.stderr) == (2, True)

    def test_disable_and_enable_hold_at_once_and_twice(self, keys, catalog, allowed):
        """The next check goes by it; the second time says that it was so already."""
        key = catalog.create_key("Acme", plans=["gold"])
        for command, state, passes in (("disable", "disabled", False), ("enable", "enabled", True)):
            assert keys(command, key.id).stdout == f"Key {key.id} (Acme) is {state}.\n"
            again = keys(command, key.id)
            assert (again.exit_code, again.stdout) == (0, f"Key {key.id} (Acme) was {state} already.\n")
            assert allowed(key.value) is passes

    def test_add_and_remove_can_be_run_twice(self, keys, catalog):
        """Exit code 0 both times, and the second says that nothing was to be done."""
        key = catalog.create_key()
        assert keys("add", key.id, "gold").stdout == f"Key {key.id} is now in plan gold.\n"
        assert keys("add", key.id, "gold").stdout == f"Key {key.id} was already in plan gold.\n"
        assert catalog.get_key(key.id).plans == ("gold",)
        assert keys("remove", key.id, "gold").stdout == f"Key {key.id} is no longer in plan gold.\n"
        again = keys("remove", key.id, "gold")
        assert (again.exit_code, again.stdout) == (0, f"Key {key.id} was not in plan gold.\n")
        assert catalog.get_key(key.id).plans == ()

    def test_a_second_plan_of_one_stage_is_refused(self, keys, catalog):
        """The message is that of the conflict, and the key stays in its plan."""
        key = catalog.create_key(plans=["gold"])
        result = keys("add", key.id, "silver")
        assert (result.exit_code, result.stdout) == (2, "")
        assert "would be in two plans of stage 'petstore/prod'" in result.stderr
        assert result.stderr.endswith("\nTo take it out of the other plan in the same step: `ratelimit keys move`.\n")
        assert catalog.get_key(key.id).plans == ("gold",)

    def test_move_takes_it_from_plan_to_plan(self, keys, as_json, catalog):
        """In one step, and a second time it says that it has been done."""
        made = catalog.create_key("me", plans=["gold", "other"])
        assert keys("move", made.id, "gold", "silver").stdout == f"Key {made.id} (me) has moved to plan silver.\n"
        again = keys("move", made.id, "gold", "silver")
        assert (again.exit_code, again.stdout) == (0, f"Key {made.id} (me) was already moved to plan silver.\n")
        assert as_json("move", made.id, "silver", "gold")["plans"] == ["gold", "other"]
        for plans, message in (
            (("silver", "nix"), "plan_id: there is no plan 'nix'\nSee `ratelimit plans list`."),
            (("nix", "gold"), "plan_id: there is no plan 'nix'\nSee `ratelimit plans list`."),
            (("gold", "other"), f"to_plan: key {made.id!r} is in plan 'other' already"),
        ):
            result = keys("move", made.id, *plans)
            assert (result.exit_code, result.stderr) == (2, f"Error: {message}\n")

    def test_plans_that_do_not_exist(self, keys, catalog):
        """Neither joined nor left: exit code 2."""
        key = catalog.create_key()
        for command in ("add", "remove"):
            result = keys(command, key.id, "none")
            message = "Error: plan_id: there is no plan 'none'\nSee `ratelimit plans list`.\n"
            assert (result.exit_code, result.stderr) == (2, message)

    @pytest.mark.parametrize(
        "command",
        [["show"], ["opens"], ["update", "--name", "n"], ["enable"], ["disable"], ["rotate", "--yes"],
         ["delete", "--yes"], ["rotate"], ["delete"], ["add", "gold"], ["remove", "gold"]],
        ids=" ".join,
    )  # fmt: skip
    def test_an_unknown_key_is_named(self, keys, catalog, command):
        """Exit code 2, where to look, no confirmation of what cannot be, and control codes are spelled out."""
        name, *rest = command
        result = keys(name, "nosuchkey1", *rest)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr == "Error: key_id: there is no key with the id 'nosuchkey1'\nSee `ratelimit keys list`.\n"
        assert r"cannot be '\x1b[2J'" in keys(name, "\x1b[2J", *rest).stderr


class TestOpens:
    def test_stages_methods_and_limits(self, keys, as_json, catalog):
        """Every configured method and "*", with the names of the limits as in decisions."""
        catalog.put_stage(Stage(STAGE, Throttle(5, 5)))
        key = catalog.create_key("Acme", plans=["gold", "other"])
        assert as_json("opens", key.id) == [
            {
                "stage": STAGE,
                "plan": "gold",
                "methods": {
                    "*": {"key_required": True, "limits": ["plan:gold", "stage:petstore/prod:*", "quota:gold"]}
                },
            },
            {"stage": "toys/prod", "plan": "other", "methods": {"*": {"key_required": True, "limits": []}}},
        ]
        shown = [line.split() for line in keys("opens", key.id).stdout.splitlines()]
        assert [STAGE, "gold", "*", "needed", "plan:gold"] in shown
        assert ["toys/prod", "other", "*", "needed", "none"] in shown

    def test_nothing_is_a_negative_answer(self, keys, catalog):
        """Exit code 1, and why: disabled, expired, or in no plan."""
        key = catalog.create_key("Acme", plans=["gold"], enabled=False)
        result = keys("opens", key.id)
        assert (result.exit_code, result.stdout) == (1, f"Key {key.id} (Acme) opens nothing: it is disabled.\n")
        for more, reason in (
            ({"plans": ["gold"], "expires_at": 1}, "is expired"),
            ({}, "is in no plan that opens a stage (see `ratelimit keys add`)"),
        ):
            key = catalog.create_key(**more)
            printed = keys("opens", key.id, COLUMNS="200").stdout
            assert printed == f"Key {key.id} opens nothing: it {reason}.\n"
        result = keys("opens", catalog.create_key().id, "--json")
        assert (result.exit_code, result.stdout) == (1, "[]\n")


class TestRotate:
    def test_with_grace_both_values_work(self, keys, catalog, allowed):
        """No question: nothing is lost. The new value is shown once."""
        key = catalog.create_key("Acme", plans=["gold"])
        result = keys("rotate", key.id, "--grace", "1h")
        first, second = result.stdout.splitlines()
        assert first == f"Rotated key {key.id} (Acme): the old value works for 1 h more."
        assert "save it now" in result.stderr
        new = second.removeprefix("value  ")
        assert [allowed(key.value), allowed(new), new != key.value] == [True] * 3

    @pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 1), ("\n", 1), ("", 1)])
    def test_without_grace_it_asks(self, keys, catalog, allowed, answering, answer, code):
        """The old value ends only if somebody says yes; whoever says nothing says no."""
        key = catalog.create_key(plans=["gold"])
        result = keys("rotate", key.id, stdin=answer)
        assert "stops working at once. Rotate? [y/N]" in result.stderr
        assert (result.exit_code, allowed(key.value)) == (code, code == 1)

    def test_an_own_value_that_is_piped_needs_yes(self, keys, catalog, allowed):
        """The pipe is no terminal; with --yes its first line is the new value, which is not printed."""
        key = catalog.create_key(plans=["gold"])
        assert keys("rotate", key.id, "--value-from", "stdin", stdin=f"{OWN}\n").exit_code == 2
        result = keys("rotate", key.id, "--value-from", "stdin", "--yes", stdin=f"{OWN}\n")
        assert result.stdout == f"Rotated key {key.id}: the old value no longer works.\n"
        assert [allowed(key.value), allowed(OWN)] == [False, True]

    @pytest.mark.parametrize(("grace", "shown"), [("90", "1 min 30 s"), ("1.5m", "1 min 30 s"), ("7d", "7 d")])
    def test_durations(self, keys, catalog, grace, shown):
        """Seconds, or a number with a unit."""
        key = catalog.create_key()
        assert f"works for {shown} more" in keys("rotate", key.id, "--grace", grace).stdout

    @pytest.mark.parametrize("grace", ["-1", "1w", "", "nan", "1e3", "٣"])
    def test_durations_that_are_none(self, keys, catalog, grace):
        """Exit code 2 with what to write, and no rotation."""
        result = keys("rotate", "some", "--grace", grace, "--yes")
        assert result.exit_code == 2
        assert "is not a duration: write seconds, or a number with a unit: 15m, 24h, 7d" in result.stderr


class TestDelete:
    def test_without_a_terminal_it_is_refused(self, keys, catalog):
        """Exit code 2 with the hint, and the key is there still."""
        key = catalog.create_key("Acme")
        result = keys("delete", key.id, stdin="y\n")
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr == (
            f"Error: Delete key {key.id} (Acme) and its usage for good? There is no terminal to ask at: give --yes to "
            "confirm.\n"
        )
        assert catalog.get_key(key.id) == key

    def test_yes_skips_the_question(self, keys, as_json, catalog, answering):
        """Deleted at once, reported as text or JSON; a second time there is nothing to delete."""
        one, other = catalog.create_key("Acme"), catalog.create_key()
        assert keys("delete", one.id, "--yes").stdout == f"Deleted key {one.id} (Acme).\n"
        assert as_json("delete", other.id, "--yes") == {"deleted": other.id}
        assert keys("delete", one.id, "--yes").exit_code == 2
        assert catalog.keys() == []

    @pytest.mark.parametrize(("answer", "code"), [(b"y\n", 0), (b"n\n", 1)])
    def test_at_a_real_terminal_it_asks(self, catalog, server, answer, code):
        """The prepared stands on the terminal, and the answer decides."""
        key = catalog.create_key("Acme")
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "ratelimit", "keys", "delete", key.id, "--url", server.url]
        process = subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs)
        os.close(theirs)
        os.write(ours, answer)
        out, _ = process.communicate(timeout=60)
        question = os.read(ours, 1000).decode()
        os.close(ours)
        assert f"Delete key {key.id} (Acme) and its usage for good? [y/N]: " in question
        assert process.returncode == code
        assert out.decode() == (f"Deleted key {key.id} (Acme).\n" if code == 0 else "")
        if code == 0:
            with pytest.raises(NotFound):
                catalog.get_key(key.id)
        else:
            assert catalog.get_key(key.id) == key


def test_keys_with_a_pepper(catalog, server, keys):
    """RATELIMIT_PEPPER is the pepper of the namespace: another one is refused with exit code 2."""
    made = keys("create", "Acme", "--namespace", "spiced", RATELIMIT_PEPPER="salt")
    assert made.exit_code == 0
    assert keys("create", "--namespace", "spiced", RATELIMIT_PEPPER="salt").exit_code == 0
    wrong = keys("create", "--namespace", "spiced", RATELIMIT_PEPPER="sugar")
    assert (wrong.exit_code, wrong.stderr.startswith("Error: pepper: is not the one")) == (2, True)
    assert "sugar" not in wrong.output


def test_a_server_that_is_not_there(tmp_path):
    """Exit code 3 and the remedy, without a traceback."""
    result = run("keys", "list", "--url", f"unix://{tmp_path}/no.sock")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.splitlines()[1].endswith("Name another one by --url or RATELIMIT_URL.")
    assert isinstance(result.exception, SystemExit)
