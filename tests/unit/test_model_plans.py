"""Plans, stages, methods and keys: what they accept, how they refuse, and that they are values."""

import copy
import pickle
from dataclasses import replace

import pytest

from ratelimit import (
    ApiKey,
    AsyncLimiter,
    ConfigError,
    CreatedKey,
    Limiter,
    Method,
    PlanStage,
    Quota,
    Stage,
    Throttle,
    UsagePlan,
)
from ratelimit.model import FrozenMap

TEN = Throttle(10, 5)


@pytest.mark.parametrize(
    ("make", "field", "message"),
    [
        (lambda: UsagePlan(""), "id", "1 to 128 letters, digits"),
        (lambda: UsagePlan("x" * 129), "id", "1 to 128 letters, digits"),
        (lambda: UsagePlan("a:b"), "id", "'a:b'"),
        (lambda: UsagePlan("a{b}"), "id", "'a{b}'"),
        (lambda: UsagePlan("-a"), "id", "a letter or digit first"),
        (lambda: UsagePlan("gold\n"), "id", r"'gold\n'"),
        (lambda: UsagePlan("gold", 10), "throttle", "a Throttle or None, not 10"),
        (lambda: UsagePlan("gold", None, 10), "quota", "a Quota or None, not 10"),
        (lambda: UsagePlan("gold", stages="a/b"), "stages", "a list of stages, not 'a/b'"),
        (lambda: UsagePlan("gold", stages=None), "stages", "a list of stages, not None"),
        (lambda: UsagePlan("gold", stages=["a/b", PlanStage("a/b")]), "stages", "'a/b' twice: merge"),
        (lambda: UsagePlan("gold", stages=[PlanStage("a/b", {"GET /": TEN})]), "throttle", "add one"),
        (lambda: UsagePlan("gold", name=3), "name", "text, not 3"),
        (lambda: UsagePlan("gold", name="x" * 1025), "name", "has 1025 characters, at most 1024"),
        (lambda: UsagePlan("gold", name="a\x00b"), "name", "control characters"),
        (lambda: UsagePlan("gold", throttle_scope="method"), "throttle_scope", "one of key, key_method, not 'method'"),
        (lambda: UsagePlan("gold", max_identities=-1), "max_identities", "from 0 to 1073741824, not -1"),
        (lambda: UsagePlan("gold", max_identities=2**30 + 1), "max_identities", "from 0 to 1073741824"),
        (lambda: UsagePlan("gold", max_identities=True), "max_identities", "must be a whole number, not True"),
        (lambda: UsagePlan("gold", max_identities=1.0), "max_identities", "must be a whole number, not 1.0"),
        (lambda: PlanStage("petstore"), "stage", "'<api>/<stage>', such as 'petstore/prod'"),
        (lambda: PlanStage("a/b/c"), "stage", "'a/b/c'"),
        (lambda: PlanStage("a/b", [("GET /", TEN)]), "throttles", "a mapping of method names"),
        (lambda: PlanStage("a/b", {"GET /*": TEN}), "throttles", "without wildcards"),
        (lambda: PlanStage("a/b", {"get /": TEN}), "throttles", "'get /'"),
        (lambda: PlanStage("a/b", {"GET": TEN}), "throttles", "'<VERB> <path>'"),
        (lambda: PlanStage("a/b", {"GET /": 5}), 'throttles."GET /"', "a Throttle, not 5"),
        (lambda: Stage("prod"), "id", "'<api>/<stage>'"),
        (lambda: Stage("a/b", 5), "throttle", "a Throttle or None, not 5"),
        (lambda: Stage("a/b", None, {"GET /": TEN}), 'methods."GET /"', "must be a Method, not"),
        (lambda: Stage("a/b", None, {"/": Method()}), "methods", "'<VERB> <path>'"),
        (lambda: UsagePlan("gold", on_unavailable="fail"), "on_unavailable", "must be one of local, open, closed"),
        (lambda: Stage("a/b", on_unavailable=""), "on_unavailable", "must be one of local, open, closed, not ''"),
        (lambda: Stage("a/b", unlisted="allow"), "unlisted", "must be one of limit, deny, not 'allow'"),
        (lambda: Stage("a/b", unlisted=None), "unlisted", "must be one of limit, deny, not None"),
        (lambda: Method(5), "throttle", "a Throttle or None, not 5"),
        (lambda: Method(None, 1), "key_required", "true or false, not 1"),
    ],
)
def test_what_cannot_be_is_refused_with_field_value_and_remedy(make, field, message):
    """Every error is a ConfigError that says where, what and what instead."""
    with pytest.raises(ConfigError) as caught:
        make()
    assert caught.value.field == field
    assert message in str(caught.value)


def test_stages_are_given_as_ids_or_with_throttles():
    """An id is a PlanStage without throttles; a plan finds what it says of a stage."""
    special = PlanStage("a/b", {"GET /": TEN})
    plan = UsagePlan("gold", TEN, stages=(stage for stage in ["x/y", special]))
    assert plan.stages == (PlanStage("x/y"), special)
    assert plan.stage("a/b") is special
    assert plan.stage("no/where") is None


MODELS = [
    TEN,
    Quota(5, "MONTH", 27),
    PlanStage("a/b", {"GET /": TEN}),
    UsagePlan("gold", TEN, Quota(5, "DAY"), [PlanStage("a/b", {"GET /": TEN}), "c/d"], "Gold", "key_method"),
    Method(TEN, key_required=False),
    Stage("a/b", TEN, {"GET /": Method(TEN), "PUT /": Method()}, "deny"),
    ApiKey("k1", "me", plans=("gold",), tags=FrozenMap({"team": "a"})),
]


@pytest.mark.parametrize("item", MODELS, ids=lambda item: type(item).__name__)
def test_models_are_values(item):
    """Equal copies by pickle and copy, usable as dictionary keys, with no way to assign."""
    for twin in (pickle.loads(pickle.dumps(item)), copy.copy(item), copy.deepcopy(item)):
        assert twin == item
        assert hash(twin) == hash(item)
    for name in ("id", "rate", "anything"):
        with pytest.raises((AttributeError, TypeError)):
            setattr(item, name, 1)


def test_a_model_keeps_nothing_that_others_can_change():
    """The mapping that was passed in may change afterwards: the model does not."""
    methods = {"GET /": Method()}
    stage = Stage("a/b", None, methods)
    methods["PUT /"] = Method()
    assert dict(stage.methods) == {"GET /": Method()}
    with pytest.raises(TypeError):
        stage.methods["PUT /"] = Method()


def test_a_frozen_map_is_a_mapping():
    """It equals a dict of the same items, whatever their order, and shows like one."""
    frozen = FrozenMap({"a": 1, "b": 2})
    assert frozen == {"b": 2, "a": 1}
    assert hash(frozen) == hash(FrozenMap([("b", 2), ("a", 1)]))
    assert (repr(frozen), len(frozen), list(frozen)) == ("{'a': 1, 'b': 2}", 2, ["a", "b"])


def test_a_created_key_is_the_key_that_is_read_later():
    """Equal to it and with the same hash, but with the value; a copy is an `ApiKey`, without."""
    made, read = CreatedKey("k1", "me", value="my-secret-value-000001", revision="r"), ApiKey("k1", "me", revision="r")
    assert (made, hash(made)) == (read, hash(read))
    assert made != ApiKey("k1", "you")
    assert made != "k1"
    assert (made.value, read.value) == ("my-secret-value-000001", None)
    for twin in (pickle.loads(pickle.dumps(made)), copy.copy(made), copy.deepcopy(made), replace(made)):
        assert (type(twin), twin.value, twin.revision) == (ApiKey, None, "r")
        assert twin == made
    assert "secret" not in repr(made)


def test_a_key_never_shows_its_value():
    """Neither repr nor comparison know it."""
    key = ApiKey("k1", "me", value="my-secret-value-000001")
    assert "secret" not in repr(key)
    assert "secret" not in str(key)
    assert key == ApiKey("k1", "me")


@pytest.mark.parametrize("kind", [Limiter, AsyncLimiter])
@pytest.mark.parametrize(
    ("options", "field", "message"),
    [
        ({"on_unavailable": "fail"}, "on_unavailable", "must be one of local, open, closed, not 'fail'"),
        ({"on_unavailable": None}, "on_unavailable", "must be one of local, open, closed, not None"),
        ({"replicas": 0}, "replicas", "must be"),
        ({"replicas": 1.5}, "replicas", "must be"),
        ({"local_max_age": 0}, "local_max_age", "must be seconds above 0, not 0"),
        ({"local_max_age": "300"}, "local_max_age", "must be seconds above 0, not '300'"),
    ],
)
def test_keywords_about_outages_are_validated(kind, options, field, message):
    with pytest.raises(ConfigError) as caught:
        kind.from_url("redis://localhost:1", **options)
    assert (caught.value.field, message in str(caught.value)) == (field, True)
