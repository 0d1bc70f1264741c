"""What each error of a server means: its cause, the name by which operators look it up, and what to do."""

import asyncio
from importlib import import_module

import pytest
from redis import exceptions

from ratelimit import StoreError, StoreTimeout, StoreUnavailable
from ratelimit.effects import (
    BatchableReads,
    IndependentReads,
    KeyLookUps,
    TooManyLookUpsError,
    changes_nothing,
    failure_of,
)
from ratelimit.scripts import Script, ScriptCall
from ratelimit.store import error_mapping
from ratelimit.store.aio import batcher, router

CLUSTER = "this is a node of a cluster"
PERMISSION = "grant this user the permissions in lua/ACL.md"
REPLICA = "connect to the primary"
REFUSALS = {
    # what the server sends: the cause, a word that stays, a word of the remedy
    "ASK 3999 127.0.0.1:6381": ("refused", "ASK 3999", CLUSTER),
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL.": ("refused", "BUSY", "SCRIPT KILL"),
    "CLUSTERDOWN Hash slot not served": ("refused", "CLUSTERDOWN", "redis-cli --cluster check"),
    "CROSSSLOT Keys in request don't hash to the same slot": (
        "refused",
        "CROSSSLOT",
        "write ?slots=true behind its URL",
    ),
    "ERR max number of clients reached": ("refused", "max number of clients", "maxclients"),
    "ERR max number of clients + cluster connections reached": ("refused", "max number of clients", "maxclients"),
    "ERR unknown command 'EVALSHA', with args beginning with: 'x'": ("refused", "unknown command", "EVALSHA"),
    "LOADING Redis is loading the dataset in memory": ("refused", "LOADING", "once its data is loaded"),
    "MASTERDOWN Link with MASTER is down": ("deposed", "MASTERDOWN", REPLICA),
    "MISCONF Errors writing to the AOF file: No space left": (
        "refused",
        "No space left",
        "stop-writes-on-bgsave-error",
    ),
    "MOVED 3999 127.0.0.1:6381": ("refused", "MOVED 3999", CLUSTER),
    "NOAUTH Authentication required.": ("refused", "NOAUTH", "pass the user and the password"),
    "NOPERM User x has no permissions to run the 'get' command": ("refused", "NOPERM", PERMISSION),
    "NOPERM User x has no permissions to run the 'eval' command": ("refused", "NOPERM", "`ratelimit scripts load`"),
    "NOREPLICAS Not enough good replicas to write.": ("refused", "NOREPLICAS", "CONFIG SET min-replicas-to-write"),
    "OOM command not allowed when used memory > 'maxmemory'.": ("refused", "OOM", "CONFIG SET maxmemory"),
    "READONLY You can't write against a read only replica.": ("deposed", "READONLY", REPLICA),
    "TRYAGAIN Multiple keys request during rehashing of slot": ("refused", "TRYAGAIN", "its slot is being moved"),
    "WRONGPASS invalid username-password pair or user is disabled.": ("refused", "username-password", "the right user"),
    # of Redis 6.2, which wraps what the first write of a script met
    "ERR Error running script (call to f_1): @user_script:1: -READONLY You can't write against a read only replica. ": (
        "deposed",
        "READONLY",
        REPLICA,
    ),
    "ERR Error running script (call to f_1): @user_script:1: -OOM command not allowed when used memory. ": (
        "refused",
        "OOM",
        "more memory",
    ),
    "ERR Error running script (call to f_1): @user_script:1: -NOREPLICAS Not enough good replicas to write. ": (
        "refused",
        "NOREPLICAS",
        "min-replicas-to-write",
    ),
}
IN_SCRIPTS = [
    "ERR The user executing the script can't run this command or subcommand script: 1, on @user_script:1.",
    "ERR ACL failure in script: User x has no permissions to run the 'hset' command script: 1, on @user_script:1.",
]


def error_of(reply, library="redis"):
    """The exception that a client makes of an error reply."""
    return import_module(f"{library}._parsers.base").BaseParser.parse_error(reply)


@pytest.mark.parametrize("library", ["redis", "valkey"])
@pytest.mark.parametrize("reply", REFUSALS)
def test_a_refusal(reply, library):
    """It was not carried out, also where it met the connection's handshake."""
    pytest.importorskip(library)
    cause, word, remedy = REFUSALS[reply]
    for mapped in (
        error_mapping.after_sending(error_of(reply, library)),
        error_mapping.before_sending(error_of(reply, library)),
    ):
        assert type(mapped) is StoreUnavailable
        assert mapped.is_outage
        assert mapped.cause == cause
        assert word in str(mapped)
        assert remedy in str(mapped)
    assert error_mapping.is_from_replica(error_of(reply, library)) == (cause == "deposed")


@pytest.mark.parametrize("library", ["redis", "valkey"])
@pytest.mark.parametrize("reply", REFUSALS)
def test_a_command_over_several_slots(reply, library):
    """It is known by its code: some clients have a class for it, others raise that of all error replies."""
    pytest.importorskip(library)
    general = import_module(f"{library}.exceptions").ResponseError(reply)
    for error in (error_of(reply, library), general):
        assert error_mapping.is_of_several_slots(error) == reply.startswith("CROSSSLOT")


@pytest.mark.parametrize("reply", IN_SCRIPTS)
def test_a_command_that_a_script_may_not_run(reply):
    """The script ran until then."""
    mapped = error_mapping.after_sending(error_of(reply))
    assert (type(mapped), mapped.cause) == (StoreError, "refused")
    assert PERMISSION in str(mapped)


@pytest.mark.parametrize("reply", ["WRONGTYPE Operation against a key", "RATELIMIT CORRUPT p:gold", "ERR BUSYBODY"])
def test_any_other_error(reply):
    mapped = error_mapping.after_sending(error_of(reply))
    assert (type(mapped), mapped.cause) == (StoreError, "refused")
    assert str(mapped).startswith("Redis answered with an error: ")


@pytest.mark.parametrize("error", [exceptions.ConnectionError("reset"), exceptions.TimeoutError(), OSError("gone")])
def test_no_answer(error):
    """Before sending nothing was counted; after that nobody knows, unless the request changes nothing."""
    assert error_mapping.before_sending(error).cause == "not_sent"
    mapped = error_mapping.after_sending(error)
    assert (type(mapped), mapped.cause) == (StoreTimeout, "unknown")


SCRIPT = Script("return 1")
READING = [
    BatchableReads([("HGETALL", "c")]),
    IndependentReads([("HGETALL", "c"), ("EVALSHA", SCRIPT.sha, 0)]),
    KeyLookUps([("MGET", "d")]),
    [("TIME",)],
    [("GET", "r"), ("HGET", "h", "r")],
    ScriptCall(SCRIPT, (), (), changes_nothing=True),
]
WRITING = [[("GET", "r"), ("HDEL", "h", "r")], [("PUBLISH", "c", "1")], ScriptCall(SCRIPT, (), ())]


@pytest.mark.parametrize("request_", READING)
def test_what_changes_nothing_is_never_unknown(request_):
    assert changes_nothing(request_)
    mapped = failure_of(request_, StoreTimeout("no answer"))
    assert (type(mapped), mapped.cause, str(mapped)) == (StoreUnavailable, "not_sent", "no answer")
    refused = StoreError("WRONGTYPE")
    assert failure_of(request_, refused) is refused


@pytest.mark.parametrize("request_", WRITING)
def test_what_may_change_something_stays_unknown(request_):
    assert not changes_nothing(request_)
    error = StoreTimeout("no answer")
    assert failure_of(request_, error) is error


def test_what_a_policy_is_for():
    """No answer, and refusals, also of a part of a script; not what Redis holds and nobody can judge by."""
    assert error_mapping.after_sending(exceptions.TimeoutError("slow")).is_outage
    assert all(error_mapping.after_sending(error_of(reply)).is_outage for reply in IN_SCRIPTS)
    for reply in ("WRONGTYPE Operation against a key", "ERR RATELIMIT STATE", "ERR user_script:1: attempt to index"):
        assert not error_mapping.after_sending(error_of(reply)).is_outage
    assert not StoreError("the catalogue is gone", cause="lost").is_outage
    assert not TooManyLookUpsError("too many").is_outage


@pytest.mark.parametrize("fails", ["router", "batcher"])
def test_an_error_of_each_call_says_all_that_the_error_of_all_says(fails):
    """Whether it is an outage, too: that is known of the error itself, not of its kind."""
    error = error_mapping.after_sending(exceptions.ResponseError("ACL failure in script: No permissions"))

    async def failed():
        future = asyncio.get_running_loop().create_future()
        if fails == "router":
            router._fail(future, error)
        else:
            batcher._fail([future], error)
        return future.exception()

    own = asyncio.run(failed())
    assert own is not error
    assert (type(own), str(own), own.cause, own.is_outage) == (StoreError, str(error), "refused", True)
