"""`ratelimit plans`, `stages` and `account`: on every real server."""

import dataclasses
import json

import pytest
from helpers.commands import run

from ratelimit import Limiter, Method, PlanStage, Quota, Stage, Throttle, UsagePlan
from ratelimit.cli import options

pytestmark = pytest.mark.slow

STAGE = "petstore/prod"
GOLD = UsagePlan(
    "gold",
    Throttle("1/3", 5),
    Quota(100, "WEEK", 1),
    [PlanStage(STAGE, {"GET /pets": Throttle(2, 3)}), "toys/prod"],
    "Gold",
    "key_method",
    [50, 80],
    "silver",
    0.5,
    1000,
)
PUT = ["put", "gold", "--name", "Gold", "--rate", "1/3", "--burst", "5", "--quota", "100", "--period", "week",
       "--offset", "1", "--method", STAGE, "GET /pets", "2", "3", "--stage", "toys/prod", "--scope", "key_method",
       "--alert", "50", "--alert", "80", "--shadow", "silver", "--lease", "0.5",
       "--max-identities", "1000"]  # fmt: skip


@pytest.fixture
def limiter(server):
    with Limiter.from_url(server.url, deadline=2) as made:
        made.catalog.put_plan(UsagePlan("silver", Throttle("1/86400", 1), stages=[STAGE]))
        yield made


@pytest.fixture
def catalog(limiter):
    return limiter.catalog


@pytest.fixture
def command(server):
    """Run a command on the server."""
    return lambda *arguments, **options: run(*arguments, RATELIMIT_URL=server.url, **options)


@pytest.fixture
def as_json(command):
    """What a command says with --json."""

    def json_of(*arguments):
        result = command(*arguments, "--json")
        assert (result.exit_code, result.exception) == (0, None), result.stderr
        return json.loads(result.stdout)

    return json_of


@pytest.fixture
def answering(monkeypatch):
    monkeypatch.setattr(options, "is_terminal", lambda: True)


def cells(text):
    return [line.split() for line in text.splitlines() if line.strip()]


class TestPut:
    def test_every_option_is_the_plan(self, command, catalog):
        """What the options say is what the catalogue holds, and a second time nothing changes, unasked."""
        assert command("plans", *PUT).stdout == "Added plan gold.\n"
        stored = catalog.get_plan("gold")
        assert {opened.stage: opened.throttles for opened in stored.stages} == {
            opened.stage: opened.throttles for opened in GOLD.stages
        }
        for part in {field.name for field in dataclasses.fields(UsagePlan)} - {"stages"}:
            assert getattr(stored, part) == getattr(GOLD, part)
        again = command("plans", *PUT)
        assert (again.exit_code, again.stdout) == (0, "Nothing changed: plan gold is already stored like this.\n")

    def test_a_plan_without_limits(self, command, catalog):
        """Nothing given is nothing limited and nothing opened."""
        command("plans", "put", "free")
        assert catalog.get_plan("free") == UsagePlan("free")

    def test_a_replacement_is_shown_and_confirmed(self, command, catalog, answering):
        """What would go is named before the prepared; without a yes the plan stays."""
        catalog.put_plan(GOLD)
        arguments = ("plans", "put", "gold", "--rate", "9", "--burst", "5", "--stage", STAGE)
        unconfirmed = command(*arguments, stdin="n\n")
        assert (unconfirmed.exit_code, unconfirmed.stdout) == (1, "")
        shown = cells(unconfirmed.stderr)
        assert ["throttle", "1/3/s,", "burst", "5", "9/s,", "burst", "5"] in shown
        assert ["quota", "100", "a", "week", "from", "Monday", "unlimited"] in shown
        assert ["lease", "0.5", "s"] in shown
        assert ["identities", "1,000", "at", "most"] in shown
        assert catalog.get_plan("gold") == GOLD
        assert command(*arguments, stdin="y\n").exit_code == 0
        assert catalog.get_plan("gold") == UsagePlan("gold", Throttle(9, 5), stages=[STAGE])

    def test_without_a_terminal_a_replacement_needs_yes(self, command, catalog):
        """Exit code 2 with the hint; with --yes it is done."""
        catalog.put_plan(GOLD)
        refused = command("plans", "put", "gold", stdin="y\n")
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert refused.stderr.splitlines()[-1] == (
            "Error: Replace plan gold? There is no terminal to ask at: give --yes to confirm."
        )
        assert catalog.get_plan("gold") == GOLD
        assert command("plans", "put", "gold", "--yes").stdout == "Replaced plan gold.\n"

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--rate", "1"], "--rate and --burst belong together: give both or neither"),
            (["--quota", "1"], "--quota and --period belong together: give both or neither"),
            (["--offset", "1"], "--offset needs a quota"),
            (["--rate", "fast", "--burst", "1"], "rate: must be a finite rate, not 'fast'"),
            (["--rate", "-1", "--burst", "1"], "rate: must not be negative, got '-1'"),
            (["--quota", "1", "--period", "DAY", "--offset", "1"], "offset: must be from 0 to 0"),
            (["--stage", "petstore"], "stage: cannot be 'petstore'"),
            (["--method", STAGE, "pets", "1", "1"], "throttles: cannot be 'pets'"),
            (["--method", STAGE, "GET /", "1", "1"], "a plan with method throttles needs a throttle of its own"),
            (["--alert", "50"], "alerts: are about a quota, and the plan has none"),
            (["--shadow", "none"], "shadow: plan 'gold' has the shadow 'none', and there is no such plan"),
            (["--name", "a\x1bb"], r"name: holds control characters ('a\x1bb')"),
        ],
    )
    def test_what_cannot_be_is_refused(self, command, catalog, options, message):
        """Exit code 2, a message without a traceback, no plan."""
        result = command("plans", "put", "gold", *options)
        assert (result.exit_code, result.stdout) == (2, "")
        assert message in result.stderr
        assert [plan.id for plan in catalog.plans()] == ["silver"]


class TestLook:
    def test_list_and_show(self, command, as_json, catalog):
        """Throttle, quota and stages in words; as JSON what a plan file would say."""
        catalog.put_plan(GOLD)
        rows = cells(command("plans", "list").stdout)
        assert rows[2] == ["gold", "Gold", "1/3/s,", "burst", "5", "100", "a", "week", "from", "Monday", STAGE]
        assert rows[-1][:4] == ["silver", "1/86400/s,", "burst", "1"]
        shown = command("plans", "show", "gold").stdout
        assert f"{STAGE} GET /pets: 2/s, burst 3" in shown
        assert "50%, 80%" in shown
        data = as_json("plans", "show", "gold")
        assert data["throttle"] == {"rate": "1/3", "burst": 5}
        assert data["stages"][STAGE] == {"throttles": {"GET /pets": {"rate": "2", "burst": 3}}}
        assert [data] == [plan for plan in as_json("plans", "list") if plan["id"] == "gold"]

    def test_long_ids_are_folded_not_cut(self, command, catalog):
        """Ids of a usual length stay whole, and nothing of the longest is lost."""
        catalog.put_plan(UsagePlan("Q" * 128, stages=[f"{'X' * 64}/{'Z' * 64}", "petstore/prod-of-usual"]))
        shown = command("plans", "list").stdout
        assert [shown.count(letter) for letter in "QXZ"] == [128, 64, 64]
        assert max(map(len, shown.splitlines())) <= 80
        command("plans", "delete", "Q" * 128, "--yes")
        catalog.put_plan(UsagePlan("usual", stages=["petstore/prod-of-usual"], name="N" * 200))
        shown = command("plans", "list").stdout
        assert ("petstore/prod-of-usual" in shown, shown.count("N")) == (True, 200)

    def test_no_plan(self, server, command):
        """An empty catalogue is no error."""
        assert command("plans", "list").stdout == "No plans.\n"
        assert command("plans", "list", "--json").stdout == "[]\n"

    def test_offers_are_json_with_or_without_the_option(self, command, as_json, catalog):
        """Plans that open a stage, as a portal may show them."""
        catalog.put_plan(UsagePlan("closed"))
        offers = as_json("plans", "offers")
        assert json.loads(command("plans", "offers").stdout) == offers
        assert [(offer["id"], offer["stages"]) for offer in offers] == [("silver", [STAGE])]

    @pytest.mark.parametrize("arguments", [["show"], ["delete"], ["delete", "--yes"], ["shadow"], ["shadow-reset"]])
    def test_an_unknown_plan(self, command, limiter, arguments):
        """Exit code 2 and one line; no confirmation is needed."""
        result = command("plans", *arguments, "none")
        assert (result.exit_code, result.stderr) == (
            2,
            "Error: plan_id: there is no plan 'none'\nSee `ratelimit plans list`.\n",
        )


class TestDelete:
    def test_it_needs_a_yes(self, command, catalog):
        """Refused without a terminal, done with --yes, and a second time there is none."""
        assert "give --yes to confirm" in command("plans", "delete", "silver").stderr
        assert [plan.id for plan in catalog.plans()] == ["silver"]
        assert command("plans", "delete", "silver", "--yes").stdout == "Removed plan silver.\n"
        assert command("plans", "delete", "silver", "--yes").exit_code == 2

    def test_a_plan_with_keys_stays(self, command, catalog):
        """The message is that of the conflict."""
        catalog.create_key(plans=["silver"])
        result = command("plans", "delete", "silver", "--yes")
        assert result.stderr == "Error: plan_id: plan 'silver' still has 1 key: move or delete them first\n"
        assert result.exit_code == 2


class TestShadow:
    @pytest.fixture
    def keys(self, limiter):
        """Three keys of a plan whose shadow admits one request a day: 4, 2 and no requests."""
        limiter.catalog.put_plan(UsagePlan("trial", Throttle(100, 100), stages=[STAGE], shadow="silver"))
        made = [limiter.catalog.create_key(name, plans=["trial"]) for name in ("Acme", "=1+1", "idle")]
        for key, requests in zip(made, (4, 2, 0), strict=True):
            assert all(limiter.check(key.value, STAGE, "GET /pets").allowed for _ in range(requests))
        return made

    def test_who_would_be_denied(self, command, as_json, keys):
        """The most denied first, with shares; keys that the shadow did not see are not listed."""
        lines = command("plans", "shadow", "trial").stdout.splitlines()
        assert " ".join(lines[:2]) == (
            "The shadow silver of plan trial saw 6 requests of 2 keys and would have denied  4, of 2 keys."
        )
        rows = cells("\n".join(lines))
        assert [keys[0].id, "Acme", "4", "3", "3", "0", "75.0%"] in rows
        assert [keys[1].id, "=1+1", "2", "1", "1", "0", "50.0%"] in rows
        assert as_json("plans", "shadow", "trial") == {
            "plan": "trial",
            "shadow": "silver",
            "keys": [
                {"key": keys[0].id, "seen": 4, "denied": 3, "throttled": 3, "over_quota": 0},
                {"key": keys[1].id, "seen": 2, "denied": 1, "throttled": 1, "over_quota": 0},
            ],
        }
        assert command("plans", "shadow", "trial", "--top", "1").stdout.splitlines()[-1] == "1 more key (see --top)."

    def test_a_shadow_starts_again(self, command, as_json, keys):
        """After a yes nothing is counted, and a second time it does no harm."""
        assert "give --yes" in command("plans", "shadow-reset", "trial").stderr
        assert len(as_json("plans", "shadow", "trial")["keys"]) == 2
        for _ in range(2):
            result = command("plans", "shadow-reset", "trial", "--yes")
            assert (result.exit_code, result.stdout) == (0, "The shadow silver of plan trial starts again from zero.\n")
        assert command("plans", "shadow", "trial").stdout == "The shadow silver of plan trial has seen no requests.\n"

    def test_a_plan_without_a_shadow(self, command, limiter):
        """Nothing to show and nothing to reset: exit code 2, and there is no question."""
        for arguments in (["shadow"], ["shadow-reset"]):
            result = command("plans", *arguments, "silver")
            assert (result.exit_code, "plan 'silver' has no shadow" in result.stderr) == (2, True)


def _key_of(catalog, stage):
    """The value of a key whose plan opens a stage."""
    catalog.put_plan(UsagePlan("any", stages=[stage]))
    return catalog.create_key(plans=["any"]).value


class TestStages:
    @pytest.fixture
    def stage(self, catalog):
        methods = {"GET /health": Method(Throttle(5, 10), key_required=False), "GET /pets": Method()}
        catalog.put_stage(Stage(STAGE, Throttle(100, 50), methods))

    def test_list_and_show(self, command, as_json, stage):
        """Each method with its own throttle or the stage's, and "*" for the rest."""
        assert cells(command("stages", "list").stdout)[-1] == [STAGE, "100/s,", "burst", "50", "2", "1"]
        rows = cells(command("stages", "show", STAGE).stdout)
        assert ["GET", "/health", "open", "to", "all", "5/s,", "burst", "10"] in rows
        assert ["GET", "/pets", "needed", "100/s,", "burst", "50"] in rows
        assert ["*", "needed", "100/s,", "burst", "50"] in rows
        (listed,) = as_json("stages", "list")
        assert listed == as_json("stages", "show", STAGE)
        assert listed["methods"]["GET /health"] == {"key_required": False, "throttle": {"rate": "5", "burst": 10}}

    def test_put(self, command, as_json, catalog):
        """Every option of it is stored; a second time nothing changes, and there is no question."""
        options = ["--rate", "100", "--burst", "50", "--method", "GET /search", "1/3", "2", "--list", "GET /pets"]
        options += ["--open", "GET /health", "--method", "GET /health", "5", "10", "--open", "GET /help"]
        options += ["--unlisted", "deny", "--on-unavailable", "closed"]
        made = Stage(
            STAGE,
            Throttle(100, 50),
            {
                "GET /search": Method(Throttle("1/3", 2)),
                "GET /pets": Method(),
                "GET /health": Method(Throttle(5, 10), key_required=False),
                "GET /help": Method(key_required=False),
            },
            "deny",
            "closed",
        )
        assert as_json("stages", "put", STAGE, *options) == as_json("stages", "show", STAGE)
        assert catalog.stages() == [made]
        again = command("stages", "put", STAGE, *options)
        assert (again.exit_code, again.output) == (0, f"Nothing changed: stage {STAGE} is already stored like this.\n")
        assert command("stages", "put", "toys/prod").stdout == "Configured stage toys/prod.\n"

    def test_a_stage_that_denies_what_is_not_listed(self, command, as_json, stage, catalog):
        """The change is shown and confirmed, as any other; `show` says it, as data too."""
        assert "unlisted" not in as_json("stages", "show", STAGE)
        options = ["--rate", "100", "--burst", "50", "--list", "GET /pets", "--unlisted", "deny"]
        unconfirmed = command("stages", "put", STAGE, *options)
        assert ["unlisted", "limited", "denied"] in cells(unconfirmed.stderr)
        assert command("stages", "put", STAGE, *options, "--yes").exit_code == 0
        assert catalog.stages()[0].unlisted == "deny"
        assert as_json("stages", "show", STAGE)["unlisted"] == "deny"
        (row,) = (row for row in cells(command("stages", "show", STAGE).stdout) if row[0] == "*")
        assert row == ["*", "denied,", "unless", "the", "key's", "plan", "lists", "it"]
        refused = command("check", "--peek", STAGE, "GET /x", RATELIMIT_KEY=_key_of(catalog, STAGE))
        assert refused.exit_code == 1
        assert "The stage denies methods that neither it nor the plan lists" in " ".join(refused.stdout.split())

    def test_a_policy_for_outages(self, command, as_json, stage, catalog):
        """Of a stage and of a plan: shown with the change, and by `show`."""
        options = ["--rate", "100", "--burst", "50", "--list", "GET /pets", "--on-unavailable", "open"]
        assert ["without", "Redis", "open"] in cells(command("stages", "put", STAGE, *options).stderr)
        assert command("stages", "put", STAGE, *options, "--yes").exit_code == 0
        assert as_json("stages", "show", STAGE)["on_unavailable"] == "open"
        assert "decided by the policy open" in command("stages", "show", STAGE).stdout
        assert command("plans", "put", "trial", "--on-unavailable", "closed").exit_code == 0
        assert catalog.get_plan("trial").on_unavailable == "closed"
        assert ["without", "Redis", "closed"] in cells(command("plans", "show", "trial").stdout)

    def test_put_replaces_only_after_a_yes(self, command, stage, catalog):
        """What would change is shown on standard error; what is not given is gone then."""
        unconfirmed = command("stages", "put", STAGE, "--rate", "1", "--burst", "50", "--list", "GET /pets")
        assert (unconfirmed.exit_code, unconfirmed.stdout, "give --yes" in unconfirmed.stderr) == (2, "", True)
        shown = cells(unconfirmed.stderr)
        assert ["throttle", "100/s,", "burst", "50", "1/s,", "burst", "50"] in shown
        assert catalog.stages()[0].throttle == Throttle(100, 50)
        done = command("stages", "put", STAGE, "--yes")
        assert (done.exit_code, done.stdout) == (0, f"Replaced stage {STAGE}.\n")
        assert catalog.stages() == [Stage(STAGE)]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["petstore"], "id: cannot be 'petstore'"),
            ([STAGE, "--rate", "1"], "--rate and --burst belong together"),
            ([STAGE, "--list", "GET"], "methods: cannot be 'GET'"),
            ([STAGE, "--on-unavailable", "503"], "'503' is not one of 'local', 'open', 'closed'"),
            ([STAGE, "--unlisted", "denied"], "'denied' is not one of 'limit', 'deny'"),
            ([STAGE, "--method", "GET /a", "x", "1"], "rate: must be a finite rate, not 'x'"),
            ([STAGE, "--open", "GET /\x1b"], "methods: cannot be 'GET /\\x1b'"),
        ],
    )
    def test_what_cannot_be_put(self, command, catalog, arguments, message):
        """Exit code 2, the field and the remedy; nothing is stored."""
        result = command("stages", "put", *arguments)
        assert (result.exit_code, result.stdout, catalog.stages()) == (2, "", [])
        assert message in result.stderr

    def test_delete(self, command, as_json, stage, catalog):
        """Only after a yes; a plan goes on opening the stage."""
        assert "give --yes" in command("stages", "delete", STAGE).stderr
        assert len(catalog.stages()) == 1
        assert as_json("stages", "delete", STAGE, "--yes") == {"deleted": STAGE}
        assert catalog.stages() == []
        assert command("stages", "list").stdout == "No stage is configured.\n"

    @pytest.mark.parametrize("arguments", [["show"], ["delete"], ["delete", "--yes"]])
    def test_an_unknown_stage(self, command, limiter, arguments):
        """Exit code 2, where to look, and control codes are spelled out."""
        result = command("stages", *arguments, "no\x1b/no")
        assert (result.exit_code, result.stderr) == (
            2,
            "Error: stage_id: no stage 'no\\x1b/no' is configured\nSee `ratelimit stages list`.\n",
        )


class TestAccount:
    def test_set_show_unset_and_each_twice(self, command, as_json, catalog):
        """The second time says that nothing changed; only the removal of a throttle asks."""
        assert command("account", "show").stdout == "Account: unlimited.\n"
        assert as_json("account", "show") == {"throttle": None}
        set_it = ("account", "set", "--rate", "0.5", "--burst", "2000")
        assert command(*set_it).stdout == "Account, from now on: 0.5/s, burst 2,000.\n"
        assert command(*set_it).stdout == "Nothing changed, account: 0.5/s, burst 2,000.\n"
        assert as_json("account", "show") == {"throttle": {"rate": "1/2", "burst": 2000}}
        refused = command("account", "unset")
        assert (refused.exit_code, "give --yes" in refused.stderr) == (2, True)
        assert catalog.get_account_throttle() == Throttle("1/2", 2000)
        assert command("account", "unset", "--yes").stdout == "Account, from now on: unlimited.\n"
        again = command("account", "unset")
        assert (again.exit_code, again.stdout) == (0, "Nothing changed, account: unlimited.\n")

    @pytest.mark.parametrize("options", [[], ["--rate", "1"], ["--burst", "1"], ["--rate", "1/0", "--burst", "1"]])
    def test_wrong_usage(self, command, limiter, options):
        """Exit code 2, and nothing is set."""
        assert command("account", "set", *options).exit_code == 2
        assert limiter.catalog.get_account_throttle() is None
