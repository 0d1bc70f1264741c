"""Records and documents of any shape in Redis: no check raises, no command hangs, and the answer says what is wrong."""

import json
import struct

import pytest
from helpers.gateway import GET_PETS, OK, VALUES, Gateway, assert_unavailable, outcome
from helpers.redis_snapshot import snapshot_without_denials

from ratelimit import ConfigError, Limiter, StoreError
from ratelimit.registry.key_record import KeyRecord

CATALOG = "{ratelimit}:catalog"
RIGHT = {
    "id": "k1",
    "name": "",
    "enabled": True,
    "plans": ["gold"],
    "digests": {"x" * 22: 0},
    "created_us": 1,
    "expires_us": 0,
    "stamp": "stamp--1",
}
DEEP = "[" * 100_000 + "]" * 100_000
HUGE = 10**400
HALF = "\ud800"
KINDS = [
    None,
    True,
    5,
    -1,
    HUGE,
    1.5,
    float("nan"),
    float("inf"),
    "text",
    HALF,
    [],
    [1],
    [[]],
    {},
    {"x": 1},
    {"x": HALF},
]
RIGHT_KINDS = {
    "name": {"text"},
    "description": {"text"},
    "owner": {"text"},
    "enabled": {"True"},
    "plans": {"[]"},
    "digests": {"{}", "{'x': 1}"},
    "created_us": {"5"},
    "expires_us": {"5"},
    "tags": {"{}"},
    "id": {"text"},
    "state": {"text"},
}


def wrong(field):
    return [kind for kind in KINDS if (kind if isinstance(kind, str) else repr(kind)) not in RIGHT_KINDS.get(field, ())]


EVERY_FIELD = [*RIGHT, "description", "owner", "tags", "state"]
WRONG_FIELDS = [(field, kind) for field in EVERY_FIELD for kind in wrong(field)]
WRONG_FIELDS += [("stamp", text) for text in ("", "seven--", "nine-----", "ünicode-")]
WRONG_FIELDS += [("plans", ["gold", 5]), ("digests", {"x": True}), ("digests", {"x": 2**53}), ("tags", {"x": 1})]


def test_a_right_record_is_read():
    """All that follows differs from it in one field."""
    record = KeyRecord.from_json(json.dumps(RIGHT), "k1")
    assert (record.plans, record.digests, record.is_live) == (("gold",), {"x" * 22: 0}, True)
    assert json.loads(record.json()) == {**RIGHT, "description": "", "owner": "", "tags": {}}


@pytest.mark.parametrize(("field", "value"), WRONG_FIELDS, ids=lambda value: ascii(value)[:20])
def test_a_record_with_a_field_of_a_wrong_kind(field, value):
    """The error names the field, and shows nothing of it; whatever it is, it is a StoreError."""
    with pytest.raises(StoreError, match=r"^a key's record in Redis cannot be read \((\w+)\)$") as caught:
        KeyRecord.from_json(json.dumps({**RIGHT, field: value}))
    assert field in str(caught.value) or "Error" in str(caught.value)


@pytest.mark.parametrize("field", RIGHT)
def test_a_record_without_a_field(field):
    """Those that were there from the first version on are needed."""
    with pytest.raises(StoreError, match=rf"cannot be read \({field}\)$"):
        KeyRecord.from_json(json.dumps({name: value for name, value in RIGHT.items() if name != field}))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "5",
        "[]",
        '"text"',
        DEEP,
        f'{{"id": {DEEP}}}',
        "9" * 5000,
        json.dumps({**RIGHT, "later": float("nan")}),
    ],
    ids=lambda text: text[:12],
)
def test_what_is_no_record(text):
    """Nested too deeply, of another kind, no JSON."""
    with pytest.raises(StoreError, match=r"^a key's record in Redis cannot be read \([\w ]+\)$"):
        KeyRecord.from_json(text)


def test_a_record_of_another_key():
    """Its id is the one that its name says."""
    with pytest.raises(StoreError, match=r"cannot be read \(id\)$"):
        KeyRecord.from_json(json.dumps(RIGHT), "k2")


@pytest.fixture
def gateway(limiter, backend, clock):
    return Gateway(limiter, backend.client(), clock)


RECORDS = [{field: value} for field, value in WRONG_FIELDS if value != HALF] + [{"id": "another"}]


def test_no_record_makes_a_check_raise(gateway):
    """Whatever stands there is 503 and left as it is, for new replicas and old ones; for its key alone."""
    name = f"{gateway.key_of('k1')}:record"
    right = json.loads(gateway.client.get(name))
    texts = [json.dumps({**right, **fields}) for fields in RECORDS] + [DEEP, "9" * 5000, '{"id": "\\ud800"}']
    for text in texts:
        gateway.client.set(name, text)
        gateway.client.hset(gateway.key_of("k1"), "r", "moved")
        before = snapshot_without_denials(gateway.client)
        assert_unavailable(gateway, "a key's record in Redis cannot be read")
        with Limiter(gateway.client, clock=gateway.clock) as new:
            assert new.check(VALUES["k1"], *GET_PETS).status == 503
        assert snapshot_without_denials(gateway.client) == before
    assert outcome(gateway.check("k2", GET_PETS)) == OK


DOCUMENTS = [DEEP, "9" * 5000, "null", "5", "[]", '"x"', "true", "NaN", "{", f'{{"stages": {DEEP}}}', '{"name": 5}']
DOCUMENTS += [
    '{"name": "\\ud800"}',
    '{"throttle": {"rate": 1e400, "burst": 1}}',
    '{"throttle": {"rate": "1", "burst": 1e3}}',
]
DOCUMENTS += ['{"quota": {"limit": NaN, "period": "DAY"}}', '{"quota": {"limit": 1, "period": []}}', '{"lease": {}}']
DOCUMENTS += ['{"stages": [{}]}', '{"stages": {"a/prod": 5}}', '{"stages": {"a/prod": {"throttles": [[]]}}}']
DOCUMENTS += [
    '{"stages": {"\\ud800": {"throttles": {}}}}',
    '{"stages": {}, "alerts": {"x": 1}}',
    '{"methods": {"x": 5}}',
]
DOCUMENTS += ['{"methods": [[]]}', '{"methods": {"GET /pets": {"key_required": 5}}}', '{"methods": {"\\ud800": {}}}']
DOCUMENTS += ['{"stages": {"a/prod": {"throttles": {}}}, "shadow": []}', '{"throttle_scope": []}', '{"methods": 5}']


@pytest.mark.parametrize("field", ["plan:gold", "stage:a/prod", "account"])
def test_no_document_of_the_catalogue_makes_a_check_raise(field, gateway):
    """It is 503 with a cause, or a decision where the document can be read; nothing is written by a 503."""
    right = gateway.client.hget(CATALOG, field)
    for number, text in enumerate(DOCUMENTS):
        gateway.client.hset(CATALOG, mapping={field: text, "stamp": f"stamp{number}"})
        gateway.clock.advance(5)
        before = snapshot_without_denials(gateway.client)
        for ask in (gateway.check, gateway.peek):
            decision = ask("k1", GET_PETS)
            decision.headers()
            assert (decision.status == 503) == (decision.cause is not None)
            if decision.status == 503:
                assert CATALOG in decision.error
                assert snapshot_without_denials(gateway.client) == before
    gateway.client.hset(CATALOG, mapping={field: right, "stamp": "right"})
    gateway.clock.advance(5)
    assert outcome(gateway.check("k1", GET_PETS)) == OK


@pytest.mark.parametrize(
    ("field", "value"),
    [("epoch", epoch) for epoch in ("", "seven--", "nine-----", "ünicode-")]
    + [("version", version) for version in ("1_0", "٣", "+3", " 3", "9" * 5000, "1e1")],
)
def test_no_field_of_the_catalogue_makes_a_check_raise(field, value, gateway):
    """The catalogue is named."""
    gateway.client.hset(CATALOG, mapping={field: value, "stamp": "another1"})
    gateway.clock.advance(5)
    before = snapshot_without_denials(gateway.client)
    assert_unavailable(gateway, CATALOG)
    assert snapshot_without_denials(gateway.client) == before


@pytest.mark.parametrize("claim", [":", ":token--1", "{}", "{", "a" * 100_000, "}:record", "a:b:c", "*"])
def test_no_entry_of_the_index_makes_a_check_raise(claim, gateway):
    """A claim of nobody opens nothing: the record that it names is lost."""
    gateway.clock.advance(5)
    (name,) = (key for key in gateway.client.keys("ratelimit:digest:*") if gateway.client.get(key).startswith(
        gateway.ids["k1"].encode()
    ))  # fmt: skip
    gateway.client.set(name, claim)
    with Limiter(gateway.client, clock=gateway.clock) as new:
        decision = new.check(VALUES["k1"], *GET_PETS)
        assert (decision.status, decision.cause) == (503, "lost")


CLOCKS = [HUGE, 2**53, 0, -1, True, 1.5, float("nan"), None, "5", [1]]


@pytest.mark.parametrize("value", CLOCKS, ids=lambda value: repr(value)[:12])
def test_a_clock_that_is_none(value, gateway):
    """One clear error, whoever asks, and nothing is written; once it tells the time, all goes on."""
    now = gateway.clock.now_us
    before = snapshot_without_denials(gateway.client)
    calls = [
        lambda: gateway.check("k1", GET_PETS),
        lambda: gateway.peek("k1", GET_PETS),
        lambda: gateway.check(None, ("a/prod", "GET /health")),
        lambda: gateway.check("unknown-key-value-0001", GET_PETS),
        gateway.catalog.create_key,
        lambda: gateway.catalog.rotate_key(gateway.ids["k1"]),
        lambda: gateway.catalog.set_remaining("gold", gateway.ids["k1"], 1),
        lambda: gateway.catalog.usage("gold", "2026-03-04", "2026-03-04"),
    ]
    for call in calls:
        gateway.clock.now_us = value
        with pytest.raises(ConfigError, match=r"^clock: must return microseconds since 1970, a whole number from 1 to"):
            call()
    assert snapshot_without_denials(gateway.client) == before
    gateway.clock.now_us = now
    assert outcome(gateway.check("k1", GET_PETS)) == OK


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("d:gold:-99999999999", struct.pack("<2d", 1, 1)),
        ("d:gold:99999999999", struct.pack("<2d", 1, 1)),
        ("d:gold:", b""),
        ("d:gold:20000", b"short"),
        ("d:gold:20000", struct.pack("<2d", float("nan"), 1)),
        ("d:gold:20000", struct.pack("<2d", float("inf"), 1)),
        ("p:gold", struct.pack("<7d", 1, 1, 1, float("nan"), 1, 1, 1)),
        ("p:gold", struct.pack("<7d", 1, 1, 1, 1, float("inf"), 1, 1)),
        ("p:gold", b"short"),
    ],
    ids=ascii,
)
@pytest.mark.timeout(10)
def test_no_state_makes_usage_hang(field, value, gateway):
    """What is no day is passed over, what cannot be counted is an error that names the field."""
    gateway.client.hset(gateway.key_of("k1"), field, value)
    try:
        gateway.catalog.usage("gold", "2026-03-04", "2026-03-04", gateway.ids["k1"])
    except StoreError as error:
        assert f"RATELIMIT CORRUPT {field}" in str(error)  # noqa: PT017 - either is right, another error is not


@pytest.mark.parametrize("field", ["x", "gold|k1", "gold|k1|a|b", "|||", "gold||"])
def test_no_sum_of_denials_makes_usage_fail(field, gateway):
    """What has another form is passed over."""
    gateway.client.hset("ratelimit:denials:20516", mapping={field: "1", f"gold|{gateway.ids['k1']}|THROTTLED": 7})
    usage = gateway.catalog.usage("gold", "2026-03-04", "2026-03-04")
    assert usage.denied[gateway.ids["k1"]] == [{"THROTTLED": 7}]
