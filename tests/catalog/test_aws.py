"""Coming from AWS: files recognised by their shape and converted, or refused; the same live from a client of boto3."""

import json
import pickle
import traceback
from fractions import Fraction

import botocore.loaders
import botocore.model
import botocore.session
import botocore.stub
import botocore.validate
import pytest
from helpers import aws_samples as aws

from ratelimit import (
    ConfigError,
    Throttle,
    UsagePlan,
)
from ratelimit.catalog.aws import convert, fetch_live, read_export


def model():
    loaded = botocore.loaders.create_loader().load_service_model("apigateway", "service-2", "2015-07-09")
    return botocore.model.ServiceModel(loaded)


def fits(operation, document):
    """Errors of a document against the output of an operation in AWS' own service model."""
    return botocore.validate.ParamValidator().validate(document, model().operation_model(operation).output_shape)


# The samples


@pytest.mark.parametrize("operation", aws.COMMANDS)
def test_samples_are_what_aws_answers(operation):
    """Each sample fits the service model of AWS, whose parser would drop no member of it."""
    for document in aws.COMMANDS[operation]:
        report = fits(operation, document)
        assert report.generate_report() == ""
        shape = model().operation_model(operation).output_shape
        for name in ("items", "item"):
            for item in document.get(name, ()):
                assert set(item) <= set(shape.members[name].member.members)


def test_the_model_can_refuse():
    """A sample with a wrong type does not fit."""
    assert fits("GetUsagePlans", {"items": [{"id": 7}]}).has_errors()


# Reading and converting


@pytest.mark.parametrize("form", ["folder", "text", "files"])
def test_an_export_becomes_plans_stages_and_keys(tmp_path, form):
    """A folder, its path as text, and a list of files give the same: exactly these plans, stages, keys and notes."""
    folder = aws.written(tmp_path)
    source = {"folder": folder, "text": str(folder), "files": sorted(folder.rglob("*.json"))}[form]
    catalogue = convert(read_export(source))
    assert catalogue.plans == aws.EXPECTED_PLANS
    assert catalogue.stages == aws.EXPECTED_STAGES
    assert catalogue.account == Throttle(10_000, 5_000)
    assert [(key.id, key.value, key.name, key.enabled, key.plans) for key in catalogue.keys] == [
        ("k1aaaaaaaa", aws.VALUES["k1aaaaaaaa"], "alpha", True, ("gold01", "trial7")),
        ("k2bbbbbbbb", aws.VALUES["k2bbbbbbbb"], "beta", False, ("gold01",)),
        ("k3cccccccc", aws.VALUES["k3cccccccc"], "gamma", True, ("trial7",)),
    ]
    assert [(key.description, key.tags, key.created_us) for key in catalogue.keys] == [
        ("the first", {"team": "red"}, 1_706_933_106_000_000),
        ("", {}, 1_706_933_106_000_000),
        ("", {}, 0),
    ]
    assert aws.notes(catalogue) == [aws.OFFSET]


def test_names_of_files_do_not_decide_what_they_are(tmp_path):
    """Names that say the contrary change nothing, as long as the id is in them."""
    swapped = dict(zip(("keys.json", "apis.json", "usage-plans.json"), (aws.PLANS, aws.KEYS, aws.APIS), strict=True))
    files = {name: file for name, file in aws.FILES.items() if file not in (aws.PLANS, aws.KEYS, aws.APIS)}
    assert convert(read_export(aws.written(tmp_path, files | swapped))).plans == aws.EXPECTED_PLANS


def test_rates_are_the_decimals_that_are_written(tmp_path):
    """0.1 is one tenth from JSON and from a float of boto3 alike, as is 1e-1."""
    for written in ('{"rateLimit": 0.1, "burstLimit": 1}', '{"rateLimit": 1e-1, "burstLimit": 1}'):
        text = '{"items": [{"id": "p1", "throttle": %s}]}' % written  # noqa: UP031 - braces
        (plan,) = aws.converted(tmp_path, {"one.json": text}).plans
        assert plan.throttle.rate == Fraction(1, 10)


def test_apis_can_be_called_by_their_names(tmp_path):
    """Only by names that are unique and can be part of an id; the others keep their id, with a note."""
    files = {
        **aws.plan_of(apiStages=[{"apiId": api, "stage": "v1"} for api in ("api1", "api2", "api3", "api4", "api5")]),
        "apis.json": {
            "items": [
                {"id": api, "name": name, "createdDate": 1}
                for api, name in (
                    ("api1", "pets"),
                    ("api2", "Toy shop"),
                    ("api3", "same"),
                    ("api4", "same"),
                    ("api5", "api1"),
                )
            ]
        },
    }
    catalogue = convert(read_export(aws.written(tmp_path, files)), api_names=True)
    assert [opened.stage for opened in catalogue.plans[0].stages] == [
        "pets/v1",
        "api2/v1",
        "api3/v1",
        "api4/v1",
        "api5/v1",
    ]
    assert aws.notes(catalogue)[:4] == [
        "API api2: is called by its id: its name cannot be part of the id of a stage",
        "API api3: is called by its id: its name is that of another API, too",
        "API api4: is called by its id: its name is that of another API, too",
        "API api5: is called by its id: its name is that of another API, too",
    ]


def test_the_scope_of_throttles_is_the_callers_choice(tmp_path):
    """All plans get the scope that the caller names."""
    catalogue = convert(read_export(aws.written(tmp_path)), throttle_scope="key_method")
    assert {plan.throttle_scope for plan in catalogue.plans} == {"key_method"}


# Input that is refused

REFUSED = {
    "not JSON": (f'{{"items": [{{"id": "{aws.SECRET}"', "bad.json: is not JSON (line 1): export it again"),
    "not a number": ('{"items": [NaN]}', "bad.json: is not JSON (ValueError): export it again"),
    "nested without end": ('{"items":' + "[" * 100_000, "bad.json: is not JSON (RecursionError): export it again"),
    "a list": ([aws.SECRET], "bad.json: must hold an object, not a list: export it again"),
    "another document": ({"Users": [aws.SECRET]}, None),
    "no list": ({"items": {"id": aws.SECRET}}, None),
    "another list": ({"items": [{"Arn": aws.SECRET}]}, None),
    "mixed kinds": ({"items": [{"id": "a", "enabled": True}, {"id": "b", "stageName": "x"}]}, None),
    "no id": ({"items": [{"value": aws.SECRET, "enabled": True}]}, "bad.json: items[0]: has no id: export it again"),
    "a number for a value": (
        {"items": [{"id": "a", "enabled": True, "value": 5 * 10**30}]},
        "bad.json: items[0].value: must be text, not a number: export it again",
    ),
    "a text for a flag": (
        {"items": [{"id": "a", "enabled": "yes", "value": aws.SECRET}]},
        "bad.json: items[0].enabled: must be true or false, not text: export it again",
    ),
    "a flag for a number": (
        {"items": [{"id": "a", "throttle": {"rateLimit": True}}]},
        "bad.json: items[0].throttle.rateLimit: must be a number, not a boolean: export it again",
    ),
    "a list for an object": (
        {"items": [{"id": "a", "throttle": []}]},
        "bad.json: items[0].throttle: must be an object, not a list: export it again",
    ),
    "a text for a list": (
        {"items": [{"id": "a", "apiStages": "api1:prod"}]},
        "bad.json: items[0].apiStages: must be a list, not text: export it again",
    ),
    "differs from another file": (
        {"items": [{"id": "gold01", "name": "Silver", "apiStages": []}]},
        "one.json: repeats something of another file differently: export both again",
    ),
    "of no plan": (
        aws.members("k1aaaaaaaa"),
        (
            "bad.json: is an output of get-usage-plan-keys, which does not say of which usage plan: "
            "put the id of one that the export has into the name of the file, and of no other"
        ),
    ),
    "of no API": (
        aws.TOYS_STAGES,
        (
            "bad.json: is an output of get-stages, which does not say of which API: "
            "put the id of one that the export has into the name of the file, and of no other"
        ),
    ),
}
NO_OUTPUT = (
    "bad.json: is not an output of get-usage-plans, get-api-keys, get-usage-plan-keys, get-rest-apis, get-stages, "
    "get-resources, get-account: remove it from the export"
)


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_cannot_be_read_is_refused(tmp_path, case):
    """The error names the file and the place in it, and neither it nor its traceback shows what the file holds."""
    document, expected = REFUSED[case]
    with pytest.raises(ConfigError) as caught:
        aws.exported(tmp_path, **{"bad.json": document})
    assert str(caught.value) == (expected or NO_OUTPUT)
    shown = "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value))
    assert aws.SECRET not in shown
    assert caught.value.__context__ is None


def test_files_that_are_not_there_are_refused(tmp_path):
    """A folder without JSON, a file that does not exist, a name with the ids of two plans."""
    with pytest.raises(ConfigError, match=r"holds no \*\.json"):
        read_export(tmp_path)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_export([tmp_path / "none.json"])
    with pytest.raises(ConfigError, match="of which usage plan"):
        aws.exported(tmp_path, **{"gold01-trial7.json": aws.GOLD_KEYS})


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_of_other_shells_are_read(tmp_path, encoding):
    """PowerShell writes UTF-16, others a byte order mark."""
    path = tmp_path / "plans.json"
    path.write_text(json.dumps(aws.PLANS), encoding=encoding)
    assert [plan.id for plan in convert(read_export(path)).plans] == ["gold01", "trial7", "empty9"]


def test_null_is_absent(tmp_path):
    """Members that are null are as if they were not there."""
    (plan,) = aws.converted(tmp_path, aws.plan_of(throttle=None, quota=None, apiStages=None, name=None)).plans
    assert plan == UsagePlan("p1")


def test_nothing_shows_a_value(tmp_path):
    """No repr of an export, of a catalogue of it or of its keys shows a value, nor an id that is one."""
    keys = {"items": [*aws.KEYS["items"], {**aws.KEY, "id": aws.SECRET, "value": aws.SECRET}]}
    export = aws.exported(tmp_path, **{"two.json": keys})
    catalogue = convert(export)
    assert len(catalogue.keys) == 4
    shown = repr(export) + repr(catalogue) + repr(catalogue.keys) + repr(catalogue.notes)
    assert [value for value in (aws.SECRET, *aws.VALUES.values()) if value in shown] == []
    assert pickle.loads(pickle.dumps(export)) == export


# Live

PAGE = {"limit": 500}  # of a list that comes in pages: the most that AWS gives
OPERATIONS = {
    "get_usage_plans": [(PAGE, aws.PLANS)],
    "get_api_keys": [
        ({"includeValues": True, **PAGE}, {**aws.KEYS, "items": aws.KEYS["items"][:2], "position": "more"}),
        ({"includeValues": True, "position": "more", **PAGE}, {"items": aws.KEYS["items"][2:]}),
    ],
    "get_rest_apis": [(PAGE, aws.APIS)],
    "get_account": [({}, aws.ACCOUNT)],
}


def stubbed(answers):
    """A client of botocore that answers these (operation, arguments, answer), in this order."""
    session = botocore.session.get_session()
    keys = {"aws_access_key_id": "none", "aws_secret_access_key": "none"}
    client = session.create_client("apigateway", region_name="eu-west-1", **keys)
    stubber = botocore.stub.Stubber(client)
    for operation, arguments, answer in answers:
        stubber.add_response(operation, answer, arguments)
    return client, stubber


def test_a_live_account_gives_what_its_files_give(tmp_path):
    """A client of boto3, page by page, gives the same catalogue as the files; AWS is asked for no more than that."""
    answers = [(operation, *each) for operation, some in OPERATIONS.items() for each in some]
    for plan, listed in (("gold01", aws.GOLD_KEYS), ("trial7", aws.TRIAL_KEYS), ("empty9", aws.NO_KEYS)):
        answers.append(("get_usage_plan_keys", {"usagePlanId": plan, **PAGE}, listed))
    for api, stages, resources in (
        (aws.PETS, aws.PETS_STAGES, aws.PETS_RESOURCES),
        (aws.TOYS, aws.TOYS_STAGES, aws.TOYS_RESOURCES),
    ):
        answers.append(("get_stages", {"restApiId": api}, stages))
        answers.append(("get_resources", {"restApiId": api, "embed": ["methods"], **PAGE}, resources))
    client, stubber = stubbed(answers)
    with stubber:
        live = fetch_live(client)
        stubber.assert_no_pending_responses()
    assert convert(live) == convert(read_export(aws.written(tmp_path)))


def test_an_empty_account_gives_nothing():
    """No plans: nothing but the account's throttle."""
    client, stubber = stubbed(
        [
            ("get_usage_plans", PAGE, {}),
            ("get_api_keys", {"includeValues": True, **PAGE}, {}),
            ("get_rest_apis", PAGE, {}),
            ("get_account", {}, aws.ACCOUNT),
        ]
    )
    with stubber:
        catalogue = convert(fetch_live(client))
    assert (catalogue.plans, catalogue.stages, catalogue.keys, catalogue.notes) == ((), (), (), ())
    assert catalogue.account == Throttle(10_000, 5_000)
