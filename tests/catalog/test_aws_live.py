"""`ratelimit import-aws --live` through the real boto3, against an HTTP server that answers as API Gateway does."""

import json

import pytest
from helpers import aws_samples as samples
from helpers.aws_server import aws_server
from helpers.commands import run

from ratelimit import Limiter
from ratelimit.catalog.aws import convert, read_export


@pytest.fixture
def aws():
    with aws_server() as account:
        yield account


@pytest.fixture
def live(aws, monkeypatch, tmp_path):
    """The command, with credentials, an address and a region from the environment alone."""
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)  # it remembers credentials
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    environment = {
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "not-a-secret",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_ENDPOINT_URL_API_GATEWAY": aws.url,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    return lambda *arguments, **more: run("import-aws", "--live", *arguments, **{**environment, **more})


def test_live_imports_what_the_files_import(live, server, tmp_path):
    """One account, read by boto3 and from files: the same plans, stages, keys and notes; run again it makes none."""
    url = {"RATELIMIT_URL": server.url}
    first, again = live("--json", **url), live("--json", **url)
    assert (first.exit_code, first.stderr, again.exit_code) == (0, "", 0)
    report = json.loads(first.stdout)
    expected = convert(read_export(samples.written(tmp_path)))
    assert (report["plans"], report["stages"]) == (
        [plan.id for plan in expected.plans],
        [stage.id for stage in expected.stages],
    )
    assert (report["created"], report["updated"], report["account"]) == (3, 0, True)
    assert json.loads(again.stdout)["updated"] == 3
    assert json.loads(again.stdout)["ids"] == report["ids"]
    assert [note["why"] for note in report["notes"]] == [note.why for note in expected.notes]
    with Limiter.from_url(server.url, deadline=2) as limiter:
        assert {plan.id: plan for plan in limiter.catalog.plans()} == {p.id: p for p in samples.EXPECTED_PLANS}
        assert len(limiter.catalog.keys()) == 3
        assert limiter.peek(samples.VALUES["k1aaaaaaaa"], f"{samples.PETS}/prod", "GET /pets").allowed
    for value in samples.VALUES.values():
        assert value not in first.output + again.output


def test_every_list_is_asked_for_once_in_the_largest_pages(live, aws):
    """One call for each list, 500 things a page: AWS answers 10 calls a second. An API that two plans open, once."""
    assert live("--dry-run").exit_code == 0
    assert sorted(aws.paths()) == sorted(
        [
            "/usageplans",
            "/apikeys",
            "/restapis",
            "/account",
            *(f"/usageplans/{plan.id}/keys" for plan in samples.EXPECTED_PLANS),
            *(f"/restapis/{api}/{what}" for api in (samples.PETS, samples.TOYS) for what in ("stages", "resources")),
        ]
    )
    one_answer = {"/account", f"/restapis/{samples.PETS}/stages", f"/restapis/{samples.TOYS}/stages"}
    assert [query.get("limit") for path, query in aws.asked if path not in one_answer] == ["500"] * 8
    assert dict(aws.asked)["/apikeys"] == {"includeValues": "true", "limit": "500"}


def test_pages_are_followed(live, aws):
    """Three keys in pages of two: the second page is asked for by the position that the first one gave."""
    aws.largest_page = 2
    result = live("--dry-run", "--json")
    assert (result.exit_code, json.loads(result.stdout)["keys"]) == (0, 3)
    assert [query.get("position") for path, query in aws.asked if path == "/apikeys"] == [None, "2"]


def test_what_aws_denies_is_said_and_nothing_is_stored(live, aws, server):
    """Exit code 2, the operation and what AWS says; no Redis was touched."""
    aws.errors.append((403, "AccessDeniedException", "User: x is not authorized to perform: apigateway:GET"))
    result = live(RATELIMIT_URL=server.url)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Error: --live: the request to AWS failed: " in result.stderr
    assert "AccessDeniedException" in result.stderr
    assert "not authorized to perform: apigateway:GET" in result.stderr
    with Limiter.from_url(server.url, deadline=2) as limiter:
        assert (limiter.catalog.plans(), len(limiter.catalog.keys())) == ([], 0)


def test_a_busy_aws_is_asked_again(live, aws):
    """429 of the control plane, which every account meets: boto3 waits and asks again."""
    aws.errors.append((429, "TooManyRequestsException", "Too Many Requests"))
    assert live("--dry-run").exit_code == 0
    assert aws.paths()[:3] == ["/usageplans", "/usageplans", "/apikeys"]


def test_without_credentials(live, aws):
    """What boto3 says, in one line, before anything was asked."""
    result = live("--dry-run", AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="")
    assert (result.exit_code, result.stderr) == (
        2,
        "Error: --live: the request to AWS failed: Unable to locate credentials\n",
    )
    assert aws.asked == []
