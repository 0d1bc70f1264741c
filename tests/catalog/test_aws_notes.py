"""Coming from AWS: a note of all that cannot be the same, and of nothing else."""

import pytest
from helpers import aws_samples as aws

from ratelimit import (
    ConfigError,
    Method,
    PlanStage,
    Stage,
    Throttle,
)
from ratelimit.catalog.aws import convert, read_export

STAGE = {"apiId": "api1", "stage": "v1"}
NO_STAGES = "API api1: throttles of its stages are not carried over: there is no get-stages of it"
NO_METHODS = "API api1: all its methods are taken to need a key: there is no get-resources of it"
NO_MEMBERS = "plan p1: no key is put into it: there is no get-usage-plan-keys of it"
THROTTLED = {"throttle": {"rateLimit": 1.0, "burstLimit": 1}}
METHOD = "'GET /pets/*'"
REMEDY = "write '<VERB> <path>', such as 'GET /pets/{id}', without wildcards: methods not listed share one bucket"


def entries(*keys, rate=1.0):
    return {"apiStages": [{**STAGE, "throttle": {key: {"rateLimit": rate, "burstLimit": 1} for key in keys}}]}


PLAN_NOTES = {
    "product code": (
        {"productCode": "x"},
        ["plan p1: its productCode is not carried over: nothing here is tied to AWS Marketplace"],
    ),
    "description and tags": (
        {"description": "d", "tags": {"a": "b"}},
        [
            "plan p1: its description is not carried over: of a plan, only the name is for people",
            "plan p1: its tags are not carried over: of a plan, only the name is for people",
        ],
    ),
    "unknown member": ({"novelty": 1}, ["plan p1: its novelty is not known here, and not carried over"]),
    "half a throttle": (
        {"throttle": {"rateLimit": 1.0}},
        ["plan p1: its throttle is not carried over: it has no burstLimit"],
    ),
    "negative rate": (
        {"throttle": {"rateLimit": -5.0, "burstLimit": 1}},
        [
            (
                "plan p1: its throttle is not carried over: rate: must not be negative, got -5.0: "
                "write tokens per second as a number >= 0, such as 10, 0.5 or '1/3'"
            )
        ],
    ),
    "control characters": (
        {"name": "a\nb\u0007"},
        ["plan p1: its name has blanks here in place of control characters"],
    ),
    "long name": ({"name": "x" * 1025}, ["plan p1: its name is cut to 1024 characters"]),
    "no limit in a quota": (
        {"quota": {"period": "DAY"}},
        ["plan p1: its quota is not carried over: limit: must be a whole number, not ''"],
    ),
    "offset of a day": (
        {"quota": {"limit": 1, "period": "DAY", "offset": 1}},
        ["plan p1: its quota is not carried over: offset: must be from 0 to 0, not 1 (days, for the period DAY)"],
    ),
    "unknown period": (
        {"quota": {"limit": 1, "period": "HOUR"}},
        ["plan p1: its quota is not carried over: period: must be one of DAY, WEEK, MONTH, not 'HOUR'"],
    ),
    "stage without a name": (
        {"apiStages": [{"apiId": "api1"}]},
        [
            (
                "plan p1, stage api1/: is not carried over: stage: cannot be 'api1/': "
                "write '<api>/<stage>', such as 'petstore/prod', of letters, digits and . _ ~ -"
            )
        ],
    ),
    "stage twice": (
        {"apiStages": [STAGE, {**STAGE, **entries("/a/GET")["apiStages"][0]}], **THROTTLED},
        ["plan p1, stage api1/v1: is not carried over: the plan lists this stage before, with other throttles"],
    ),
    "entry without the plan's throttle": (
        entries("/a/GET"),
        [
            (
                "plan p1, stage api1/v1, method /a/GET: "
                "its throttle is not carried over: the plan has none that it could replace"
            )
        ],
    ),
    "entry that is off": (
        entries("/a/GET", rate=-1.0) | THROTTLED,
        ["plan p1, stage api1/v1, method /a/GET: has no throttle of its own: here the plan's holds for it"],
    ),
    "wildcard": (
        entries("/pets/*/GET") | THROTTLED,
        [f"plan p1, stage api1/v1, method /pets/*/GET: is not carried over: cannot be {METHOD}: {REMEDY}"],
    ),
    "any verb": (
        entries("/{proxy+}/ANY") | THROTTLED,
        [
            (
                "plan p1, stage api1/v1, method /{proxy+}/ANY: is one method for every verb: "
                "the gateway must pass 'ANY /{proxy+}' wherever it serves"
            )
        ],
    ),
    "many entries": (
        entries(*(f"/m{n}/GET" for n in range(21))) | THROTTLED,
        [
            (
                "plan p1, stage api1/v1: all of its 21 method throttles are carried over: "
                "AWS allows 20 unless it is asked for more"
            )
        ],
    ),
}


@pytest.mark.parametrize("case", PLAN_NOTES)
def test_what_a_plan_loses_is_noted(tmp_path, case):
    """Each note says where and why, and there is no other."""
    members, expected = PLAN_NOTES[case]
    catalogue = aws.converted(tmp_path, aws.plan_of(**members))
    general = {NO_STAGES, NO_METHODS, NO_MEMBERS}
    assert [note for note in aws.notes(catalogue) if note not in general] == expected


def test_any_is_carried_over_as_a_method_of_that_name(tmp_path):
    """A gateway that passes the name of its route, ANY included, has the bucket that AWS has."""
    (plan,) = aws.converted(tmp_path, aws.plan_of(**entries("/{proxy+}/ANY"), **THROTTLED)).plans
    assert plan.stages == (PlanStage("api1/v1", {"ANY /{proxy+}": Throttle(1, 1)}),)


def test_a_rate_that_cannot_be_exact_is_rounded_down(tmp_path):
    """As many digits as fit are kept, and the note says so."""
    text = '{"items": [{"id": "p1", "throttle": {"rateLimit": 33.33333333333, "burstLimit": 5000}}]}'
    catalogue = aws.converted(tmp_path, {"one.json": text})
    assert catalogue.plans[0].throttle == Throttle("33.333333", 5000)
    assert aws.notes(catalogue)[0].startswith("plan p1: its rate is rounded down to 33.333333: rate 33.33333333333 ")


def test_a_throttle_of_minus_one_is_off(tmp_path):
    """-1 in either member switches a throttle off, without a note; quota and stages stay."""
    for throttle in ({"rateLimit": -1.0, "burstLimit": -1}, {"rateLimit": -1.0, "burstLimit": 5}):
        catalogue = aws.converted(tmp_path, aws.plan_of(throttle=throttle))
        assert catalogue.plans[0].throttle is None
        assert aws.notes(catalogue) == [NO_MEMBERS]


def api_files(stages=None, resources=None, source="HEADER", **plan):
    """An export of one plan with one stage, and what is known of its API."""
    files = aws.plan_of(apiStages=[STAGE], **plan)
    files["members-p1.json"] = aws.NO_KEYS
    files["apis.json"] = {"items": [{"id": "api1", "name": "n", "createdDate": 1, "apiKeySource": source}]}
    if stages is not None:
        files["stages-api1.json"] = {"item": stages}
    if resources is not None:
        files["resources-api1.json"] = {"items": resources}
    return files


def stage_with(**settings):
    return [{"stageName": "v1", "methodSettings": {key: aws.setting(*size) for key, size in settings.items()}}]


ROOT = [{"id": "r", "path": "/", "resourceMethods": {"GET": aws.method("GET", key_required=True)}}]
HEAD_OF = "plan p1, stage api1/v1:"
STAGE_NOTES = {
    "nothing known": (api_files(), [NO_METHODS, NO_STAGES]),
    "methods only": (api_files(resources=ROOT), [NO_STAGES]),
    "no list of methods": (
        api_files(stage_with(**{"*/*": (1.0, 1)})),
        [
            NO_METHODS,
            (
                "stage api1/v1: methods that are not listed share one bucket, on AWS each has its own: "
                "there is no get-resources of its API"
            ),
        ],
    ),
    "not among the stages": (
        api_files([{"stageName": "v2"}], ROOT),
        ["stage api1/v1: get-stages does not list it, and yet a plan opens it"],
    ),
    "authorizer": (
        api_files(stage_with(), ROOT, "AUTHORIZER"),
        ["API api1: the gateway must pass usageIdentifierKey of its authorizer as the key, and not a header"],
    ),
    "web ACL": (
        api_files([{"stageName": "v1", "webAclArn": "arn:x"}], ROOT),
        ["stage api1/v1: rate-based rules of its web ACL are not carried over"],
    ),
    "not embedded": (
        api_files(stage_with(), [{"id": "r", "path": "/", "resourceMethods": {"GET": {}, "PUT": {}}}]),
        ["API api1: 2 of its methods are taken to need a key: get-resources was called without --embed methods"],
    ),
    "any verb": (
        api_files(stage_with(), [{"id": "r", "path": "/a", "resourceMethods": {"ANY": {"apiKeyRequired": False}}}]),
        ["API api1, method /a/ANY: is one method for every verb: the gateway must pass 'ANY /a' wherever it serves"],
    ),
    "off for one method": (
        api_files(stage_with(**{"*/*": (5.0, 5), "~1a/GET": (-1.0, -1)}), ROOT),
        ["stage api1/v1, method ~1a/GET: has no throttle of its own: here the stage's holds for it"],
    ),
    "wildcard": (
        api_files(stage_with(**{"pets~1*/GET": (5.0, 5)}), ROOT),
        [f"stage api1/v1, method pets~1*/GET: is not carried over: cannot be {METHOD}: {REMEDY}"],
    ),
}


@pytest.mark.parametrize("case", STAGE_NOTES)
def test_what_a_stage_loses_is_noted(tmp_path, case):
    """Each note says where and why, and there is no other."""
    files, expected = STAGE_NOTES[case]
    assert aws.notes(aws.converted(tmp_path, files)) == expected


def test_a_method_without_a_key_of_an_api_whose_stages_are_unknown_is_open(tmp_path):
    """What get-resources says holds for the stages that plans open, even if there is no get-stages."""
    resources = [{"id": "r", "path": "/a", "resourceMethods": {"GET": aws.method("GET", key_required=False)}}]
    assert aws.converted(tmp_path, api_files(resources=resources)).stages == (
        Stage("api1/v1", None, {"GET /a": Method(key_required=False)}),
    )


@pytest.mark.parametrize(
    ("listed", "verbs", "expected"),
    [
        (["/a/GET"], ["GET", "HEAD"], [f"{HEAD_OF} HEAD /a counts as GET /a here, on AWS in the plan's bucket"]),
        (["/a/GET", "/a/HEAD"], ["GET", "HEAD"], []),
        (["/a/GET"], ["GET"], []),
        (["/b/GET"], ["GET", "HEAD"], []),
    ],
    ids=["GET alone", "both", "no HEAD", "another path"],
)
def test_a_head_that_counts_as_get_is_noted(tmp_path, listed, verbs, expected):
    """Where the API has one, and the plan has a throttle for GET alone: on AWS it is a method of its own."""
    resources = [
        {"id": "r", "path": "/a", "resourceMethods": {verb: aws.method(verb, key_required=True) for verb in verbs}}
    ]
    files = api_files(stage_with(), resources) | aws.plan_of(**entries(*listed), **THROTTLED)
    assert aws.notes(aws.converted(tmp_path, files)) == expected


NO_VALUE = "its value is not in the export, get-api-keys was called without --include-values"
KEY_NOTES = {
    "no value": ([{**aws.KEY, "value": None}], 0, [f"key k1aaaaaaaa: is not carried over: {NO_VALUE}"]),
    "too short": (
        [{**aws.KEY, "value": "short"}],
        0,
        [
            (
                "key k1aaaaaaaa: is not carried over: value: "
                "must be 20 to 128 visible ASCII characters without blanks, not 5 characters"
            )
        ],
    ),
    "same value": (
        [aws.KEY, {**aws.KEY, "id": "k2"}],
        1,
        ["key k2: is not carried over: another key of the export has the same value"],
    ),
    "stage keys": (
        [{**aws.KEY, "stageKeys": ["a/b"]}],
        1,
        ["key k1aaaaaaaa: its stageKeys are not carried over: here plans alone open stages"],
    ),
    "customer id": ([{**aws.KEY, "customerId": "c"}], 1, ["key k1aaaaaaaa: its customerId is its owner here"]),
    "name": (
        [{**aws.KEY, "name": "a\tb"}],
        1,
        ["key k1aaaaaaaa: its name has blanks here in place of control characters"],
    ),
    "description": (
        [{**aws.KEY, "description": "a\nb"}],
        1,
        ["key k1aaaaaaaa: its description has blanks here in place of control characters"],
    ),
    "tags": (
        [{**aws.KEY, "tags": {"a": "x" * 257}}],
        1,
        ["key k1aaaaaaaa: its tags are not carried over: has 257 characters, at most 256 are stored"],
    ),
    "unknown member": (
        [{**aws.KEY, "novelty": "x"}],
        1,
        ["key k1aaaaaaaa: its novelty is not known here, and not carried over"],
    ),
    "id is the value": (
        [{**aws.KEY, "id": aws.KEY["value"], "stageKeys": ["a/b"]}],
        1,
        ["key number 1 of get-api-keys: its stageKeys are not carried over: here plans alone open stages"],
    ),
}


@pytest.mark.parametrize("case", KEY_NOTES)
def test_what_a_key_loses_is_noted(tmp_path, case):
    """Each note says where and why, there is no other, and none shows a value."""
    items, count, expected = KEY_NOTES[case]
    catalogue = aws.converted(tmp_path, {"keys.json": {"items": items}})
    assert aws.notes(catalogue) == expected
    assert len(catalogue.keys) == count


def test_an_absent_flag_is_noted(tmp_path):
    """A key of which nobody says whether it is enabled is not guessed to be."""
    document = {
        "items": [aws.KEY, {name: item for name, item in aws.KEY.items() if name != "enabled"} | {"stageKeys": []}]
    }
    with pytest.raises(ConfigError, match="is not an output of"):
        aws.converted(tmp_path, {"keys.json": document})
    export = read_export(aws.written(tmp_path, {"keys.json": {"items": [aws.KEY]}}))
    nobody_says = {name: item for name, item in export.keys[0].items() if name != "enabled"}
    catalogue = convert(type(export)(keys=(nobody_says,)))
    assert catalogue.keys == ()
    assert aws.notes(catalogue) == [
        "key k1aaaaaaaa: is not carried over: the export does not say whether it is enabled"
    ]


def test_values_are_taken_from_plan_keys_where_api_keys_have_none(tmp_path):
    """AWS always shows the values of a plan's keys: an export without --include-values is whole for those."""
    bare = {"items": [{name: item for name, item in key.items() if name != "value"} for key in aws.KEYS["items"]]}
    catalogue = convert(aws.exported(tmp_path, **{"two.json": bare}))
    assert [key.value for key in catalogue.keys] == list(aws.VALUES.values())


def test_a_key_is_in_one_plan_per_stage(tmp_path):
    """Of two plans that open one stage, a key is put into the first that the export has."""
    plans = {"items": [{"id": f"p{n}", "name": "", "apiStages": [STAGE]} for n in (1, 2)]}
    files = {
        "plans.json": plans,
        "keys.json": {"items": [aws.KEY]},
        "p1.json": aws.members("k1aaaaaaaa"),
        "p2.json": aws.members("k1aaaaaaaa"),
    }
    catalogue = aws.converted(tmp_path, files)
    assert catalogue.keys[0].plans == ("p1",)
    expected_note = "key k1aaaaaaaa: is not put into plan p2: plan p1, which it is in, opens api1/v1, too"
    assert [note for note in aws.notes(catalogue) if note not in {NO_STAGES, NO_METHODS}] == [expected_note]


def test_keys_that_are_not_where_they_should_be_are_noted(tmp_path):
    """Members of a plan that get-api-keys does not list, and members that are of another type."""
    files = {
        **aws.plan_of(),
        "p1-1.json": aws.members("k1aaaaaaaa", "k2bbbbbbbb"),
        "p1-2.json": {"items": [{"id": "other", "type": "JUNK"}]},
        "keys.json": {"items": [aws.KEY]},
    }
    assert aws.notes(aws.converted(tmp_path, files)) == [
        "plan p1: a member that is no API_KEY is not carried over",
        "keys: 1 of plans are not carried over: get-api-keys does not list them",
    ]


def test_a_plan_that_cannot_be_is_noted_with_its_keys(tmp_path):
    """Its keys are carried over, without it."""
    files = {
        "plans.json": {"items": [{"id": "-p", "name": "", "apiStages": []}]},
        "members.json": {**aws.members("k1aaaaaaaa"), "usagePlanId": "-p"},
        "keys.json": {"items": [aws.KEY]},
    }
    catalogue = aws.converted(tmp_path, files)
    assert catalogue.plans == ()
    assert catalogue.keys[0].plans == ()
    assert aws.notes(catalogue) == [
        (
            "plan -p: is not carried over: id: cannot be '-p': "
            "use 1 to 128 letters, digits and . _ ~ -, a letter or digit first"
        ),
        "plan -p: its keys are not put into it: there is no such plan here",
    ]


def test_an_export_that_was_cut_off_is_noted(tmp_path):
    """A page with a position, or what the CLI prints under --max-items, says that more follows; pages are joined."""
    pages = {
        "1.json": {"items": [{"id": "p1", "name": "", "apiStages": []}], "position": "x"},
        "2.json": {"items": [{"id": "p2", "name": "", "apiStages": []}], "NextToken": "y"},
        "3.json": {"items": [{"id": "p3", "name": "", "apiStages": []}]},
        "4.json": {"items": []},
    }
    catalogue = aws.converted(tmp_path, pages)
    assert [plan.id for plan in catalogue.plans] == ["p1", "p2", "p3"]
    more = "says that more pages follow: what they list must be in the other files"
    assert aws.notes(catalogue)[:3] == [f"1.json: {more}", f"2.json: {more}", "4.json: lists nothing"]
