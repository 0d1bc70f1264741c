"""Identities as values: what they accept, how they refuse, and that nothing shows a subject."""

import copy
import pickle
from dataclasses import FrozenInstanceError

import pytest

from ratelimit import ConfigError, Identity

SECRET = "user:anna@example.com"


@pytest.mark.parametrize(
    ("subject", "message"),
    [
        ("", "has 0 characters: pass text of 1 to 256"),
        ("x" * 257, "has 257 characters: pass text of 1 to 256"),
        ("x" * 10_000, "has 10000 characters: pass text of 1 to 256"),
        (None, "must be text, not NoneType: pass text"),
        (b"user:42", "must be text, not bytes"),
        (42, "must be text, not int"),
        (f"{SECRET}\ud800", "half a character"),
    ],
)
def test_a_subject_that_cannot_be_is_refused(subject, message):
    """The error says where, what and what instead, and does not show it."""
    with pytest.raises(ConfigError) as caught:
        Identity(subject, "free")
    assert caught.value.field == "subject"
    assert message in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("plan", ["", "a:b", "a{b}", "x" * 129, None, 3])
def test_a_plan_is_an_id(plan):
    """What no plan can be called is a mistake of the caller."""
    with pytest.raises(ConfigError) as caught:
        Identity(SECRET, plan)
    assert caught.value.field == "plan"
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("subject", ["x", "x" * 256, "é" * 256, "a b\n\0{}:", "☃", "[2001:db8::]/64"])
def test_any_text_of_1_to_256_characters_is_a_subject(subject):
    """Characters are counted, not bytes."""
    assert Identity(subject, "free").subject == subject


def test_an_identity_is_a_value():
    """Equal by both fields, hashable, immutable, without room for more."""
    one = Identity(SECRET, plan="free")
    assert one == Identity(SECRET, "free")
    assert hash(one) == hash(Identity(SECRET, "free"))
    assert len({one, Identity(SECRET, "gold"), Identity("user:2", "free")}) == 3
    assert copy.deepcopy(one) == pickle.loads(pickle.dumps(one)) == one
    with pytest.raises(FrozenInstanceError):
        one.subject = "other"
    with pytest.raises(AttributeError):
        object.__setattr__(one, "further", 1)


def test_a_repr_shows_no_subject():
    """Neither does any text that is made of it, such as a traceback that shows local variables."""
    identity = Identity(SECRET, "free")
    assert repr(identity) == str(identity) == f"{identity}" == f"{[identity]}"[1:-1] == "Identity(plan='free')"
