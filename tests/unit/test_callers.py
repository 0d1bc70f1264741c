"""Who a request comes from, as clients may send it: whatever they send is a caller, none, or one that is denied."""

import logging

import pytest

from ratelimit import ConfigError, Identity, Limiter
from ratelimit.integrations import callers
from ratelimit.integrations.callers import UNACCEPTABLE, RequestData, address, bearer, header, query, validate_key
from ratelimit.registry.key_values import could_be_value

KEY = "rl_live_" + "a" * 36
SECRET = "user:anna@example.com"


@pytest.fixture(autouse=True)
def _nothing_said_yet(monkeypatch):
    monkeypatch.setattr(callers, "_warnings", set())


def request(*fields, verb="GET", text="", peer="192.0.2.7"):
    """A request with these fields, (name, value)."""
    return RequestData(verb, lambda name: [value for field, value in fields if field == name], text, peer, None)


def test_the_value_that_no_key_can_have():
    """So that the check denies it, as it does any key that it does not know."""
    assert not could_be_value(UNACCEPTABLE)


@pytest.mark.parametrize(
    ("sent", "caller"),
    [
        ([], None),
        ([("x-api-key", KEY)], KEY),
        ([("x-api-key", "")], ""),
        ([("x-api-key", KEY), ("x-api-key", KEY)], UNACCEPTABLE),
        ([("x-api-key", KEY), ("x-api-key", "")], UNACCEPTABLE),
        ([("x-api-key", "\xff\xfe")], "\xff\xfe"),
        ([("x-api-key", "k" * 100_000)], "k" * 100_000),
        ([("authorization", f"Bearer {KEY}")], None),
    ],
)
def test_a_key_in_a_header(sent, caller):
    """It is what was sent; twice is not acceptable, even if it is the same."""
    assert header().caller(request(*sent)) == caller
    assert header("X-API-Key").caller(request(*sent)) == caller


@pytest.mark.parametrize(
    ("text", "caller"),
    [
        ("", None),
        ("other=1", None),
        (f"key={KEY}", KEY),
        (f"k%65y={KEY}", KEY),
        ("key=", ""),
        ("key", ""),
        (f"key={KEY}&key={KEY}", UNACCEPTABLE),
        ("key=%ff%fe", "\ufffd\ufffd"),
        ("key=%", "%"),
        ("&" * 1001 + f"key={KEY}", UNACCEPTABLE),
    ],
)
def test_a_key_in_the_query(text, caller):
    """As in a header; of a query with a thousand parameters nothing is read."""
    assert query("key").caller(request(text=text)) == caller


@pytest.mark.parametrize(
    ("values", "caller"),
    [
        ([], None),
        ([f"Bearer {KEY}"], KEY),
        ([f"bEARER   {KEY} "], KEY),
        (["Basic dXNlcjpwYXNz"], None),
        (["Bearer"], None),
        ([""], None),
        (["Bearer a b"], UNACCEPTABLE),
        (["Bearer \xff"], UNACCEPTABLE),
        ([f"Bearer {KEY}", f"Bearer {KEY}"], UNACCEPTABLE),
    ],
)
def test_a_key_as_a_bearer_token(values, caller):
    """Another scheme is not about us; a token that is none is denied."""
    assert bearer().caller(request(*(("authorization", value) for value in values))) == caller


def claims_of(token):
    if token == "expired":
        raise RuntimeError(SECRET)
    return {
        "anna": {"sub": "anna", "tier": "gold"},
        "number": {"sub": 42, "tier": "gold"},
        "refused": None,
        "no-subject": {"tier": "gold"},
        "no-tier": {"sub": "anna"},
        "empty": {"sub": "", "tier": "gold"},
        "list": {"sub": ["anna"], "tier": "gold"},
        "true": {"sub": True, "tier": "gold"},
        "long": {"sub": "x" * 10_000, "tier": "gold"},
        "huge": {"sub": 10**5000, "tier": "gold"},
        "half": {"sub": "\ud800", "tier": "gold"},
        "odd-plan": {"sub": "anna", "tier": ["gold"]},
        "no-claims": "anna",
    }[token]


@pytest.mark.parametrize("plan", ["gold", lambda claims: claims["tier"]], ids=["one plan", "by claims"])
@pytest.mark.parametrize(
    ("token", "caller"),
    [
        ("anna", Identity("sub:anna", "gold")),
        ("number", Identity("sub:42", "gold")),
        ("refused", UNACCEPTABLE),
        ("expired", UNACCEPTABLE),
        ("no-subject", UNACCEPTABLE),
        ("empty", UNACCEPTABLE),
        ("list", UNACCEPTABLE),
        ("true", UNACCEPTABLE),
        ("long", UNACCEPTABLE),
        ("huge", UNACCEPTABLE),
        ("half", UNACCEPTABLE),
        ("no-claims", UNACCEPTABLE),
        ("not-in-the-table", UNACCEPTABLE),
        ("t" * 100_000, UNACCEPTABLE),
    ],
)
def test_an_identity_from_a_token(plan, token, caller):
    """By its subject, under one plan or under the one that its claims name; a claim may be missing or be anything."""
    assert bearer(claims_of, plan=plan).caller(request(("authorization", f"Bearer {token}"))) == caller


@pytest.mark.parametrize("token", ["no-tier", "odd-plan"])
def test_a_token_whose_plan_cannot_be_read(token):
    """Is denied, as one without a subject is."""
    source = bearer(claims_of, plan=lambda claims: claims["tier"])
    assert source.caller(request(("authorization", f"Bearer {token}"))) == UNACCEPTABLE


def test_another_claim_and_no_plan():
    """`claim=` names the one that counts; a function that returns None as plan denies."""
    sent = request(("authorization", "Bearer anna"))
    assert bearer(claims_of, plan="free", claim="tier").caller(sent) == Identity("tier:gold", "free")
    assert bearer(claims_of, plan=lambda _claims: None).caller(sent) == UNACCEPTABLE


def test_the_log_of_a_token_that_is_not_valid(caplog):
    """It says once which error was raised and where, and nothing of what was sent."""
    for _ in range(3):
        bearer(claims_of, plan="free").caller(request(("authorization", "Bearer expired")))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("bearer: raised RuntimeError in claims_of, line ")
    assert "said once" in record.getMessage()
    assert SECRET not in caplog.text
    assert "Traceback" not in caplog.text


def test_the_log_of_errors_is_bounded(caplog):
    """However many kinds of errors a user's code raises."""
    for number in range(1000):
        callers.failed_caller(type(f"Error{number}", (Exception,), {})())
    assert len(caplog.records) == 64


@pytest.mark.parametrize(
    ("sent", "peer", "caller"),
    [
        ([], "192.0.2.7", Identity("address:192.0.2.7", "free")),
        ([("x-forwarded-for", "198.51.100.1")], "192.0.2.7", Identity("address:192.0.2.7", "free")),
        ([("x-forwarded-for", "198.51.100.1")], "10.0.0.1", Identity("address:198.51.100.1", "free")),
        ([("forwarded", "for=198.51.100.1")], "10.0.0.1", Identity("address:198.51.100.1", "free")),
        ([], "2001:db8::1", Identity("address:2001:db8::/64", "free")),
        ([], "junk", None),
        ([], "", None),
        ([], None, None),
    ],
)
def test_an_address_as_an_identity(sent, peer, caller):
    """Under the plan for such callers; where there is none, the request names no caller."""
    assert address("free", trusted=["10.0.0.0/8"]).caller(request(*sent, peer=peer)) == caller


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: header("x api key"), "header"),
        (lambda: header(""), "header"),
        (lambda: header(None), "header"),
        (lambda: query(""), "query"),
        (lambda: query(7), "query"),
        (lambda: bearer(plan="free"), "plan"),
        (lambda: bearer(claims_of), "plan"),
        (lambda: bearer(claims_of, plan="a plan"), "plan"),
        (lambda: bearer("secret", plan="free"), "verify"),
        (lambda: bearer(claims_of, plan="free", claim=1), "claim"),
        (lambda: address(""), "plan"),
        (lambda: address("free", trusted=["*"]), "trusted"),
        (lambda: address("free", ipv6_prefix=0), "ipv6_prefix"),
        (lambda: validate_key("x-api-key"), "key"),
        (lambda: validate_key(header), None),
    ],
)
def test_a_source_that_cannot_be(make, field):
    """The error names the argument; a function is a source of its own."""
    if field is None:
        assert callable(make())
        return
    with pytest.raises(ConfigError) as caught:
        make()
    assert caught.value.field == field
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("value", [7, b"bytes", ["a"], object()])
def test_what_a_function_may_not_return(value, caplog):
    """It is logged by its type, once, and denied."""
    assert callers.validate_caller(value) == UNACCEPTABLE
    assert callers.validate_caller(value) == UNACCEPTABLE
    (record,) = caplog.records
    assert f"returned a {type(value).__name__}," in record.getMessage()


@pytest.mark.parametrize(
    ("verb", "fields", "is_preflight"),
    [
        ("OPTIONS", [("origin", "https://a.example"), ("access-control-request-method", "POST")], True),
        ("OPTIONS", [("origin", "https://a.example")], False),
        ("OPTIONS", [("access-control-request-method", "POST")], False),
        ("GET", [("origin", "https://a.example"), ("access-control-request-method", "POST")], False),
    ],
)
def test_what_a_preflight_is(verb, fields, is_preflight):
    """OPTIONS with both fields."""
    assert request(*fields, verb=verb).is_preflight is is_preflight


@pytest.mark.parametrize("sent", ["", UNACCEPTABLE, "k" * 100_000, "\xff\xfe", "\udce9"])
def test_a_check_denies_whatever_was_sent(valkey, sent):
    """With 403, the same for all."""
    with valkey.client() as client, Limiter(client) as limiter:
        limiter.catalog.create_key()
        decision = limiter.check(sent, "petstore/prod", "GET /pets")
        assert (decision.status, decision.problem()["title"]) == (403, "Forbidden")
