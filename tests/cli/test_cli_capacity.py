"""`ratelimit capacity` and `ratelimit import-aws`: what they print of what the catalogue says; on every real server."""

import json
import sys
import types

import pytest
from helpers import aws_samples as samples
from helpers.commands import run

from ratelimit import Limiter, Quota, Stage, Throttle, UsagePlan
from ratelimit.catalog.aws import read_export

pytestmark = pytest.mark.slow


@pytest.fixture
def catalog(server):
    with Limiter.from_url(server.url, deadline=2) as limiter:
        yield limiter.catalog


@pytest.fixture
def command(server):
    return lambda *arguments, **options: run(*arguments, RATELIMIT_URL=server.url, **options)


def rows(text):
    return [line.split() for line in text.splitlines()]


class TestCapacity:
    @pytest.fixture
    def plans(self, catalog):
        """Two keys of a plan with a quota on one stage, none of another plan on a second stage, which is bounded."""
        catalog.put_plan(UsagePlan("gold", Throttle("0.5", 5), Quota(100, "DAY"), ["shop/prod"]))
        catalog.put_plan(UsagePlan("open", stages=["toys/prod"]))
        catalog.put_stage(Stage("toys/prod", Throttle(4, 3)))
        for enabled in (True, True, False):
            catalog.create_key(plans=["gold"], enabled=enabled)

    def test_stages_total_and_what_binds(self, command, plans, catalog):
        """Figures by hand: 2 x (0.5/s, burst 5), 100 a day; a new window doubles no burst, as the bucket binds."""
        result = command("capacity")
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout.splitlines()[0] == "Active keys: 2 of gold, 0 of open."
        shown = rows(result.stdout)
        assert ["shop/prod", "1", "10", "10", "200"] in shown
        assert ["plan:gold", "2", "1", "10", "10"] in shown
        assert ["quota:gold", "2", "200"] in shown
        assert ["toys/prod", "0", "0", "0", "0"] in shown
        assert ["total", "1", "10", "10", "200"] in shown

    def test_one_more_customer(self, command, plans):
        """What it adds, where; nothing where it opens nothing."""
        text = command("capacity", "--new-customer", "gold").stdout
        shown = rows(text[text.index("One more key of plan gold adds:") :])
        assert ["shop/prod", "+0.5", "+5", "+5", "+100"] in shown
        assert ["toys/prod"] in shown
        assert ["total", "+0.5", "+5", "+5", "+100"] in shown

    def test_json_is_the_catalogues_answer(self, command, plans, catalog):
        """Every figure and bound."""
        result = json.loads(command("capacity", "--new-customer", "open", "--json").stdout)
        report = catalog.capacity("open")

        def data(figures):
            return {
                name: {
                    "value": getattr(figures, name).value,
                    "bounds": [str(bound) for bound in getattr(figures, name).bounds],
                }
                for name in ("rate", "burst", "second", "day")
            }

        assert result == {
            "active_keys": {"gold": 2, "open": 0},
            "total": data(report.total),
            "stages": {stage: data(figures) for stage, figures in report.stages.items()},
            "addition": {
                "plan": "open",
                "total": data(report.addition.total),
                "stages": {stage: data(figures) for stage, figures in report.addition.stages.items()},
            },
        }
        assert result["addition"]["stages"]["toys/prod"]["rate"]["value"] == 4.0

    def test_what_has_no_limit_says_so(self, command, catalog):
        """ "unlimited" in words, null in JSON."""
        catalog.put_plan(UsagePlan("open", stages=["toys/prod"]))
        catalog.create_key(plans=["open"])
        shown = rows(command("capacity").stdout)
        assert ["total", *["unlimited"] * 4] in shown
        assert json.loads(command("capacity", "--json").stdout)["total"]["rate"]["value"] is None

    def test_nothing_and_the_unknown(self, command, catalog):
        """An empty catalogue bears nothing; an unknown plan is exit code 2."""
        result = command("capacity")
        assert result.stdout.splitlines()[0] == "Active keys: none, as there is no plan."
        assert ["total", "0", "0", "0", "0"] in rows(result.stdout)
        result = command("capacity", "--new-customer", "none")
        assert (result.exit_code, result.stderr) == (
            2,
            "Error: plan_id: there is no plan 'none'\nSee `ratelimit plans list`.\n",
        )


class TestImportAws:
    @pytest.fixture
    def folder(self, tmp_path):
        return str(samples.written(tmp_path))

    def test_a_dry_run_needs_no_server(self, folder):
        """What would be imported, what could not, and no connection."""
        result = run("import-aws", folder, "--dry-run", RATELIMIT_URL="unix:///nowhere")
        assert (result.exit_code, result.stderr) == (0, "")
        text = " ".join(result.stdout.split())
        assert "Would be imported: 3 plans, 3 stages with limits of their own, 3 keys, the account's throttle." in text
        assert "Nothing was stored (dry run). Not imported exactly (1):" in text
        assert f"- {samples.OFFSET}" in text

    def test_it_can_be_run_twice(self, command, folder, catalog, server):
        """The second time all keys exist; the values of the callers work, and none is printed."""
        first, again = command("import-aws", folder), command("import-aws", folder)
        assert "3 created, 0 updated." in " ".join(first.stdout.split())
        assert "--json lists them by the ids in AWS" in " ".join(first.stdout.split())
        assert "0 created, 3 updated." in " ".join(again.stdout.split())
        assert {plan.id: plan for plan in catalog.plans()} == {plan.id: plan for plan in samples.EXPECTED_PLANS}
        assert len(catalog.keys()) == 3
        for value in samples.VALUES.values():
            assert value not in first.output + again.output
        with Limiter.from_url(server.url, deadline=2) as limiter:
            details = [limiter.peek(value, "no/stage", "GET /").detail for value in samples.VALUES.values()]
        assert "unknown" not in details

    def test_json(self, command, folder, catalog):
        """The report, with the new id of each key; a dry run knows none."""
        dry = json.loads(command("import-aws", folder, "--json", "--dry-run").stdout)
        result = json.loads(command("import-aws", folder, "--json").stdout)
        assert (dry["dry_run"], dry["ids"], result["dry_run"]) == (True, None, False)
        assert result["ids"].keys() == samples.VALUES.keys()
        assert {key.id for key in catalog.keys()} == set(result["ids"].values())  # noqa: SIM118 - a catalogue
        assert (result["created"], result["updated"], result["keys"]) == (3, 0, 3)
        assert [f"{note['where']}: {note['why']}" for note in result["notes"]] == [samples.OFFSET]
        for name in ("plans", "stages", "keys", "account"):
            assert dry[name] == result[name]

    def test_options_of_the_conversion(self, command, folder, catalog):
        """--api-names and --scope go to the import."""
        command("import-aws", folder, "--scope", "key_method", "--api-names")
        plan = catalog.get_plan("gold01")
        assert plan.throttle_scope == "key_method"
        assert samples.PETS not in plan.stages[0].stage

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "give either FOLDER or --live"),
            ([".", "--live"], "give either FOLDER or --live"),
            ([".", "--region", "eu-west-1"], "--region needs --live"),
            (["/nowhere"], "cannot be read"),
        ],
    )
    def test_wrong_usage(self, arguments, message):
        """Exit code 2, a message, no traceback."""
        result = run("import-aws", *arguments, RATELIMIT_URL="unix:///nowhere")
        assert (result.exit_code, result.stdout) == (2, "")
        assert message in result.stderr

    def test_an_export_that_is_none(self, tmp_path):
        """The file and the place in it."""
        (tmp_path / "plans.json").write_text('{"items": [{"id": 7}]}')
        result = run("import-aws", str(tmp_path), RATELIMIT_URL="unix:///nowhere")
        assert (result.exit_code, result.stdout) == (2, "")
        assert "plans.json" in result.stderr

    def test_live_without_the_extra(self, monkeypatch):
        """What to install, exit code 2."""
        monkeypatch.setitem(sys.modules, "boto3", None)
        result = run("import-aws", "--live", "--dry-run")
        assert (result.exit_code, result.stderr) == (
            2,
            "Error: --live: needs the extra: pip install 'ratelimit-redis[aws]'\n",
        )

    def test_live_without_credentials(self, monkeypatch):
        """What botocore says, in one line: here by a boto3 of three lines over the real botocore."""
        import botocore.session

        def client(service, region_name):
            session = botocore.session.Session(profile=None)
            session.set_config_variable("config_file", "/nowhere")
            return session.create_client(service, region_name=region_name)

        for name in ("AWS_PROFILE", "AWS_DEFAULT_REGION", "AWS_REGION"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setitem(sys.modules, "boto3", types.SimpleNamespace(client=client))
        result = run("import-aws", "--live", "--dry-run")
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr == "Error: --live: the request to AWS failed: You must specify a region.\n"

    def test_live_takes_what_aws_says(self, monkeypatch, folder, command, catalog):
        """The export that `fetch_live` makes is imported as one of a folder; how it is fetched is tested elsewhere."""
        clients = []
        monkeypatch.setitem(sys.modules, "boto3", types.SimpleNamespace(client=lambda *a, **o: clients.append((a, o))))
        monkeypatch.setattr("ratelimit.cli.commands.import_aws.fetch_live", lambda client: read_export(folder))
        assert command("import-aws", "--live", "--region", "eu-west-1").exit_code == 0
        assert clients == [(("apigateway",), {"region_name": "eu-west-1"})]
        assert len(catalog.plans()) == 3
