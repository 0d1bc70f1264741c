"""Names in Redis: which hash tag each has, and that no two things share a name."""

import re
import string

import pytest
from helpers.redis_snapshot import names_in

from ratelimit import Limiter, Method, Stage, Throttle
from ratelimit.registry.redis_keys import RedisKeys, identity_id

NAMES = RedisKeys("ns")


def hash_tag(name):
    """What a Cluster takes of a name to choose the slot: the first braces that hold something."""
    match = re.match(r"[^{]*\{([^}]+)\}", name)
    return match and match[1]


def test_the_catalogue_has_one_tag_and_each_key_its_own():
    """On a Cluster all of the control plane is on one server, and so is all that belongs to one API key."""
    control = NAMES.catalog, NAMES.keys, NAMES.plan_keys("gold"), NAMES.plan_past("gold")
    assert [hash_tag(name) for name in control] == ["ns"] * 4
    of_a_key = NAMES.key_hash("k1"), NAMES.key_record("k1"), NAMES.key_days("k1")
    assert [hash_tag(name) for name in of_a_key] == ["k1"] * 3
    assert hash_tag(NAMES.key_hash(identity_id("d"))) == "~d"
    others = (
        NAMES.account,
        NAMES.identities("gold", 1),
        NAMES.alerts,
        NAMES.denials(1),
        NAMES.digest("d"),
        NAMES.stage_bucket("a/b", "*"),
    )
    assert [hash_tag(name) for name in others] == [None] * 6


@pytest.mark.parametrize(
    ("method", "written"),
    [
        ("GET /pets/{id}", "GET /pets/%7Bid%7D"),
        ("GET /a%7Bid%7D", "GET /a%257Bid%257D"),
        ("GET /pets/100%", "GET /pets/100%25"),
        ("*", "*"),
        ("GET /pets", "GET /pets"),
    ],
)
def test_a_template_is_no_hash_tag(method, written):
    """What would be a tag is written in percents, and the sign itself as well: no two methods share a bucket."""
    assert NAMES.stage_bucket("a/prod", method) == f"ns:stage:a/prod:{written}"


def test_no_two_methods_share_a_name():
    """Of all texts of up to four of the characters that matter, no two are written alike."""
    texts = [""]
    for _ in range(4):
        texts += [text + character for text in texts for character in "%{}27BD5"]
    texts = set(texts)
    assert len({NAMES.stage_bucket("a/b", text) for text in texts}) == len(texts)
    unchanged = "".join(sorted(set(string.printable) - set("%{}")))
    assert NAMES.stage_bucket("a/b", unchanged).endswith(unchanged)


def test_the_bucket_of_a_template_is_where_the_contract_says(backend, clock):
    """The name of a shared bucket is encoded; what a decision names is the method as it is."""
    method = "GET /pets/{id}"
    with backend.client() as client, Limiter(client, clock=clock) as limiter:
        limiter.catalog.put_stage(Stage("a/prod", None, {method: Method(Throttle(1, 1), key_required=False)}))
        assert limiter.check(None, "a/prod", method).allowed
        assert limiter.check(None, "a/prod", method).limited_by == f"stage:a/prod:{method}"
        limiter.close()  # what is counted of denials is there from now on
        assert set(names_in(client)) == {
            b"{ratelimit}:catalog",
            b"ratelimit:stage:a/prod:GET /pets/%7Bid%7D",
            b"ratelimit:denials:20516",
        }
