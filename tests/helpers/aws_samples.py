"""What API Gateway of AWS answers, made up for tests: two APIs, three plans, some keys, and everything that is odd.

`COMMANDS` says which operation of AWS' service model each has to fit; test_aws holds them against it.
"""

import json

from ratelimit import Method, PlanStage, Quota, Stage, Throttle, UsagePlan
from ratelimit.catalog.aws import convert, read_export

PETS, TOYS = "a1b2c3d4e5", "f6g7h8i9j0"
VALUES = {
    "k1aaaaaaaa": "tenantAlphaKey0000000001",
    "k2bbbbbbbb": "tenantBetaKey00000000002",
    "k3cccccccc": "tenantGammaKey0000000003",
}

PLANS = {
    "items": [
        {
            "id": "gold01",
            "name": "Gold",
            "apiStages": [
                {
                    "apiId": PETS,
                    "stage": "prod",
                    "throttle": {
                        "/pets/GET": {"rateLimit": 0.1, "burstLimit": 1},
                        "//GET": {"rateLimit": 5.0, "burstLimit": 2},
                        "/pets/{id}/DELETE": {"rateLimit": 2.5, "burstLimit": 3},
                    },
                },
                {"apiId": TOYS, "stage": "prod"},
            ],
            "throttle": {"rateLimit": 10.0, "burstLimit": 20},
            "quota": {"limit": 1000, "offset": 3, "period": "WEEK"},
        },
        {
            "id": "trial7",
            "name": "Trial",
            "apiStages": [{"apiId": PETS, "stage": "test"}],
            "quota": {"limit": 50, "offset": 0, "period": "DAY"},
        },
        {"id": "empty9", "name": "Nothing yet", "apiStages": []},
    ]
}
KEYS = {
    "items": [
        {
            "id": "k1aaaaaaaa",
            "value": VALUES["k1aaaaaaaa"],
            "name": "alpha",
            "description": "the first",
            "enabled": True,
            "createdDate": "2024-02-03T04:05:06+00:00",
            "lastUpdatedDate": "2024-02-03T04:05:06+00:00",
            "stageKeys": [],
            "tags": {"team": "red"},
        },
        {
            "id": "k2bbbbbbbb",
            "value": VALUES["k2bbbbbbbb"],
            "name": "beta",
            "enabled": False,
            "createdDate": 1706933106,
            "stageKeys": [],
        },
        {"id": "k3cccccccc", "value": VALUES["k3cccccccc"], "name": "gamma", "enabled": True, "stageKeys": []},
    ]
}
KEY = {"id": "k1aaaaaaaa", "value": VALUES["k1aaaaaaaa"], "name": "n", "enabled": True}
SECRET = "verySecretKeyValue-0123456789"


def members(*key_ids):
    """The keys of a plan, as `get-usage-plan-keys` prints them."""
    return {"items": [{"id": key, "type": "API_KEY", "value": VALUES[key], "name": key[:2]} for key in key_ids]}


GOLD_KEYS = members("k1aaaaaaaa", "k2bbbbbbbb")
TRIAL_KEYS = members("k1aaaaaaaa", "k3cccccccc")
NO_KEYS = {"items": []}
APIS = {
    "items": [
        {
            "id": PETS,
            "name": "petstore",
            "createdDate": "2023-01-01T00:00:00+00:00",
            "apiKeySource": "HEADER",
            "rootResourceId": "root1",
        },
        {
            "id": TOYS,
            "name": "Toy shop",
            "createdDate": "2023-01-01T00:00:00+00:00",
            "apiKeySource": "HEADER",
            "endpointConfiguration": {"types": ["REGIONAL"]},
        },
    ]
}


def setting(rate, burst):
    """A method's settings, whole, as AWS makes them of any one of them."""
    return {
        "metricsEnabled": False,
        "dataTraceEnabled": False,
        "throttlingBurstLimit": burst,
        "throttlingRateLimit": rate,
        "cachingEnabled": False,
        "cacheTtlInSeconds": 300,
        "cacheDataEncrypted": False,
        "requireAuthorizationForCacheControl": True,
        "unauthorizedCacheControlHeaderStrategy": "SUCCEED_WITH_RESPONSE_HEADER",
    }


PETS_STAGES = {
    "item": [
        {
            "deploymentId": "d1",
            "stageName": "prod",
            "methodSettings": {
                "*/*": setting(100.0, 50),
                "~1pets/GET": setting(0.5, 2),
                "pets~1{id}/DELETE": setting(7.0, 7),
                "~1/GET": setting(3.0, 4),
            },
            "tracingEnabled": False,
            "createdDate": "2023-01-02T00:00:00+00:00",
        },
        {"deploymentId": "d1", "stageName": "test", "methodSettings": {"*/*": setting(-1.0, -1)}},
    ]
}
TOYS_STAGES = {"item": [{"deploymentId": "d2", "stageName": "prod", "methodSettings": {"~1/GET": setting(2.0, 2)}}]}


def method(verb, key_required):
    return {"httpMethod": verb, "authorizationType": "NONE", "apiKeyRequired": key_required}


PETS_RESOURCES = {
    "items": [
        {"id": "root1", "path": "/", "resourceMethods": {"GET": method("GET", key_required=True)}},
        {
            "id": "res2",
            "parentId": "root1",
            "pathPart": "pets",
            "path": "/pets",
            "resourceMethods": {
                "GET": method("GET", key_required=True),
                "OPTIONS": method("OPTIONS", key_required=False),
            },
        },
        {"id": "res3", "parentId": "res2", "pathPart": "{id}", "path": "/pets/{id}"},
    ]
}
TOYS_RESOURCES = {
    "items": [{"id": "root2", "path": "/", "resourceMethods": {"GET": method("GET", key_required=False)}}]
}
ACCOUNT = {
    "cloudwatchRoleArn": "arn:aws:iam::1:role/x",
    "throttleSettings": {"burstLimit": 5000, "rateLimit": 10000.0},
    "features": ["UsagePlans"],
    "apiKeyVersion": "4",
}

FILES = {
    "one.json": PLANS,
    "two.json": KEYS,
    "keys-of-gold01.json": GOLD_KEYS,
    "trial7/keys.json": TRIAL_KEYS,
    "keys_empty9.json": NO_KEYS,
    "three.json": APIS,
    f"stages-{PETS}.json": PETS_STAGES,
    f"stages-{TOYS}.json": TOYS_STAGES,
    "pets-resources.json": PETS_RESOURCES,
    f"{TOYS}-resources.json": TOYS_RESOURCES,
    "settings.json": ACCOUNT,
}
"""A whole export. What a file is, only its shape tells; of what it is, its name, or the root resource of the API."""

COMMANDS = {
    "GetUsagePlans": [PLANS],
    "GetApiKeys": [KEYS],
    "GetUsagePlanKeys": [GOLD_KEYS, TRIAL_KEYS, NO_KEYS],
    "GetRestApis": [APIS],
    "GetStages": [PETS_STAGES, TOYS_STAGES],
    "GetResources": [PETS_RESOURCES, TOYS_RESOURCES],
    "GetAccount": [ACCOUNT],
}


# What it comes to

EXPECTED_PLANS = (
    UsagePlan(
        "gold01",
        Throttle(10, 20),
        Quota(1000, "WEEK", 3),
        [
            PlanStage(
                f"{PETS}/prod",
                {"GET /pets": Throttle("0.1", 1), "GET /": Throttle(5, 2), "DELETE /pets/{id}": Throttle("2.5", 3)},
            ),
            f"{TOYS}/prod",
        ],
        "Gold",
    ),
    UsagePlan("trial7", None, Quota(50, "DAY"), [f"{PETS}/test"], "Trial"),
    UsagePlan("empty9", name="Nothing yet"),
)
_METHODS = {"GET /": Method(), "GET /pets": Method(), "OPTIONS /pets": Method(key_required=False)}
EXPECTED_STAGES = (
    Stage(
        f"{PETS}/prod",
        Throttle(100, 50),
        {
            **_METHODS,
            "GET /": Method(Throttle(3, 4)),
            "GET /pets": Method(Throttle("0.5", 2)),
            "DELETE /pets/{id}": Method(Throttle(7, 7)),
        },
    ),
    Stage(f"{PETS}/test", None, _METHODS),
    Stage(f"{TOYS}/prod", None, {"GET /": Method(Throttle(2, 2), key_required=False)}),
)
OFFSET = (
    "plan gold01: the offset 3 of its quota is read as the day on which the quota starts anew, "
    "not as requests that the first period has less"
)


def written(folder, files=None):
    """Write files as the AWS CLI does; return the folder."""
    for name, document in (FILES if files is None else files).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(document if isinstance(document, str) else json.dumps(document, indent=4), encoding="utf-8")
    return folder


def exported(folder, **changes):
    """The sample export, read; a change replaces the file of that name (None: takes it out)."""
    files = {**FILES, **changes}
    return read_export(written(folder, {name: file for name, file in files.items() if file is not None}))


def converted(folder, files):
    """What an export of these files alone comes to."""
    return convert(read_export(written(folder, files)))


def notes(result):
    return [str(note) for note in result.notes]


def plan_of(**members):
    """An export of one plan alone, in the file of that name."""
    return {"one.json": {"items": [{"id": "p1", "name": "p", "apiStages": [], **members}]}}
