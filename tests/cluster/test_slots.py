"""Where keys live, and how commands are divided and their replies joined."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit.scripts import Script, ScriptCall
from ratelimit.store.cluster.slots import divide, slot_of, slot_of_all, slot_of_call, slot_of_command

CATALOG = slot_of("{ns}:catalog")


@pytest.mark.parametrize(
    ("key", "slot"),
    [
        ("123456789", 12_739),  # the specification's check value, 0x31C3
        ("foo", 12_182),
        ("{user1000}.following", slot_of("user1000")),
        ("foo{}{bar}", slot_of(b"foo{}{bar}")),
        ("foo{{bar}}zap", slot_of("{bar")),
        ("foo{bar}{zap}", slot_of("bar")),
        (b"\xff{bar}", slot_of("bar")),
    ],
)
def test_slots_are_those_of_the_specification(key, slot):
    assert slot_of(key) == slot


def test_an_empty_tag_is_none():
    assert slot_of("{}a") != slot_of("{}b")


@pytest.mark.parametrize(
    ("command", "key"),
    [
        (("GET", "a"), "a"),
        (("hset", "a", "f", 1), "a"),
        (("SMEMBERS", b"a"), "a"),
        (("EVAL", "return 1", 1, "a", "b"), "a"),
        (("EVALSHA", "0" * 40, "2", "a", "b"), "a"),
        (("MEMORY", "USAGE", "a"), "a"),
        (("OBJECT", "ENCODING", "a"), "a"),
        (("EVAL", "return 1", 0), None),
        (("TIME",), None),
        (("INFO", "replication"), None),
        (("WAIT", 1, 100), None),
        (("PUBLISH", "a", "b"), None),
        (("SCRIPT", "LOAD", "return 1"), None),
    ],
)
def test_a_command_goes_where_its_first_key_lives(command, key):
    """Without one, where the catalogue is."""
    assert slot_of_command(command, CATALOG) == (CATALOG if key is None else slot_of(key))


def test_commands_that_stay_together_go_where_the_first_key_of_any_lives():
    assert slot_of_all([("PUBLISH", "c", "m"), ("GET", "a"), ("GET", "b")], CATALOG) == slot_of("a")
    assert slot_of_all([("PUBLISH", "c", "m"), ("WAIT", 1, 5)], CATALOG) == CATALOG


def test_the_slot_of_a_call_is_kept_on_it():
    call = ScriptCall(Script("return 1"), ["{a}:1", "{a}:2"], [])
    assert call.slot == -1
    assert slot_of_call(call, CATALOG) == call.slot == slot_of("a")
    assert slot_of_call(ScriptCall(Script("return 1"), [], []), CATALOG) == CATALOG


def test_commands_of_one_slot_stay_as_they_are():
    commands = [("GET", "{a}1"), ("MGET", "{a}1", "{a}2"), ("TIME",)]
    division = divide(commands, CATALOG)
    assert [part.command for part in division.parts] == commands
    assert division.join([b"1", [b"1", b"2"], [1, 2]]) == [b"1", [b"1", b"2"], [1, 2]]


KEYS = st.sampled_from([f"{{{tag}}}:{number}" for tag in "abc" for number in range(3)] + ["missing"])
COMMANDS = st.one_of(
    st.tuples(st.just("GET"), KEYS),
    st.lists(KEYS, min_size=1, max_size=8).map(lambda keys: ("MGET", *keys)),
    st.lists(KEYS, min_size=1, max_size=8).map(lambda keys: ("EXISTS", *keys)),
    st.just(("TIME",)),
)


def answer(command):
    """What a server that holds each key but "missing" replies."""
    name, *keys = command
    values = [None if key == "missing" else key.encode() for key in keys]
    replies = {"GET": lambda: values[0], "MGET": lambda: values, "TIME": lambda: [1, 2]}
    return replies[name]() if name in replies else sum(value is not None for value in values)


@given(st.lists(COMMANDS, max_size=8))
def test_joined_replies_are_those_of_the_commands(commands):
    """No part names keys of two slots, and nobody can tell from the replies that commands were split."""
    division = divide(commands, CATALOG)
    for slot, command in division.parts:
        assert {slot_of(key) for key in command[1:]} in ({slot}, set())
    assert division.join([answer(part.command) for part in division.parts]) == [answer(each) for each in commands]


@pytest.mark.parametrize("name", ["MGET", "UNLINK"])
def test_the_error_of_a_part_is_that_of_the_command(name):
    error = RuntimeError()
    division = divide([("GET", "a"), (name, "a", "b"), ("GET", "c")], CATALOG)
    assert division.join([1, [2] if name == "MGET" else 1, error, 3]) == [1, error, 3]
