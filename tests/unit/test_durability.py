"""What is made of the replies to WAIT and INFO: when in doubt, fewer replicas have a change than more."""

import pytest

from ratelimit import ApiKey, Replication, StoreError, StoreTimeout, StoreUnavailable
from ratelimit.admin.durability import durable_change
from ratelimit.effects import IndependentReads, PatientCommands, changes_nothing
from ratelimit.registry.namespace import Namespace

NAMESPACE = Namespace("ratelimit", None, None)
NAMESPACE.note_slots([None, None])  # one server without slots
KEY = ApiKey("0123456789")


def info(primary="a" * 40, replicas=2, has_min_replicas=True, role="master"):
    good = f"min_slaves_good_slaves:{replicas}\r\n" if has_min_replicas else ""
    return (
        f"# Replication\r\nrole:{role}\r\nconnected_slaves:{replicas}\r\n{good}"
        f"slave0:ip=127.0.0.1,port=6380,state=online,offset=1,lag=0\r\nmaster_replid:{primary}\r\n"
    ).encode()


def reported(acknowledged, replicas, *, has_min_replicas=True):
    return Replication(acknowledged, replicas, has_min_replicas)


def unchanged():
    """A change that needs no server."""
    return KEY
    yield


def replication(before, after, timeout_s=1.5):
    """What is reported if the server replies like this before and after the change; an exception `after` is thrown."""
    operation = durable_change(NAMESPACE, KEY.id, unchanged(), durable=True, timeout_s=timeout_s)
    first = next(operation)
    assert (type(first), first) == (IndependentReads, [("INFO", "replication"), ("WAIT", 0, 1)])
    assert changes_nothing(first)
    second = operation.send([before, 2])
    assert (type(second), second.patience_s) == (PatientCommands, timeout_s)
    push, wait, _ = second
    assert push == ("PUBLISH", "ratelimit:changes", "key:0123456789")
    assert wait[2] == timeout_s * 1000
    proceed = operation.throw if isinstance(after, Exception) else operation.send
    with pytest.raises(StopIteration) as ended:
        proceed(after)
    return ended.value.value.replication


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (info(), [1, 2, info()], reported(2, 2)),
        (info(), [1, 1, info()], reported(1, 2)),
        # One that has gone or come meanwhile may not have it.
        (info(replicas=2), [1, 1, info(replicas=1)], reported(1, 2)),
        (info(replicas=1), [1, 1, info(replicas=2)], reported(1, 2)),
        (info(has_min_replicas=False), [1, 2, info()], reported(2, 2, has_min_replicas=False)),
        (info(), [1, 2, info(has_min_replicas=False)], reported(2, 2, has_min_replicas=False)),
        # Another server: a failover, or the same one after a restart.
        (info("a" * 40), [1, 2, info("b" * 40)], reported(0, 2)),
        (info(""), [1, 2, info("")], reported(0, 2)),
        # The change is made, but nobody knows who has it.
        (info(), StoreTimeout("no answer"), reported(0, 2)),
        (info(), StoreUnavailable("no connection"), reported(0, 2)),
        (info(), [1, StoreError("UNBLOCKED"), info()], reported(0, 2)),
        (info(), [1, 2, StoreError("NOPERM")], reported(0, 2)),
        (info(), [StoreError("NOPERM"), 2, info()], reported(0, 2)),
    ],
)
def test_what_is_told(before, after, expected):
    assert replication(before, after) == expected


@pytest.mark.parametrize("failing", [0, 1])
def test_what_is_not_allowed(failing):
    """Before anything is changed."""
    replies = [info(), 2]
    replies[failing] = StoreUnavailable("no permission", cause="refused")
    operation = durable_change(NAMESPACE, KEY.id, unchanged(), durable=True, timeout_s=1)
    next(operation)
    with pytest.raises(StoreUnavailable, match="nothing was changed") as raised:
        operation.send(replies)
    assert raised.value.cause == "refused"
