"""Key values and peppers are nowhere: not in Redis and what it writes, not in logs, not in what is shown or raised.

Each search is also made for a text that was left there on purpose: one that finds nothing would prove nothing.
"""

import asyncio
import io
import logging
import socket
import traceback
from contextlib import contextmanager

import pytest
import redis
from helpers.proxy import Proxy
from helpers.replica import METHOD, STAGE
from helpers.servers import Server, binaries
from properties.promises.connections import DEADLINE

from ratelimit import AsyncLimiter, ConfigError, Conflict, Limiter, NotFound, Quota, RateLimited, Throttle, UsagePlan

PEPPER = "Pepper-of-this-namespace"
OWN, REPLACED, IMPORTED, WRONG = (
    "Own-Value-0123456789-ab",
    "Replaced-0123456789-abc",
    "Imported-0123456789-ab",
    "Wr on-g",
)
MARK = "left-there-on-purpose"


@contextmanager
def gateway(url, **options):
    """A limiter on which everything happens that has to do with key values. Yields it with all values."""
    with Limiter.from_url(url, pepper=PEPPER, deadline=5, denial_cache=False, **options) as limiter:
        catalog = limiter.catalog
        catalog.put_plan(UsagePlan("gold", Throttle(1, 3), Quota(4, "DAY"), [STAGE]))
        generated, own = catalog.create_key("one", plans=["gold"]), catalog.create_key("two", OWN, ["gold"])
        rotated = catalog.rotate_key(own.id, grace_s=60, value=REPLACED)
        catalog.import_keys(io.StringIO(f"Name,Key,UsagePlanIds\nthree,{IMPORTED},gold\n"))
        values = [generated.value, rotated.value, OWN, IMPORTED]
        for value in values:
            for _ in range(5):
                limiter.check(value, STAGE, METHOD)
            limiter.peek(value, STAGE, METHOD)
        limiter.check("Unknown-" + OWN, STAGE, METHOD)
        yield limiter, [*values, "Unknown-" + OWN, PEPPER]


def everything_in(client):
    """All names, values as they are read, and DUMPs, as one text."""
    parts = []
    for name in client.scan_iter():
        kind = client.type(name)
        read = {b"string": client.get, b"hash": client.hgetall, b"set": client.smembers}.get(kind)
        parts += [name, client.dump(name), repr(read(name) if read else client.zrange(name, 0, -1)).encode()]
    return b"\n".join(parts)


def occurring(texts, data):
    """Which of the texts occur."""
    return [text for text in texts if text.encode() in data]


def test_redis_holds_no_value(server):
    """No name, no value, no DUMP of any key in Redis shows a key value or the pepper."""
    with gateway(server.url) as (_, secrets), server.client() as client:
        client.set("mark", MARK)
        assert occurring([*secrets, MARK], everything_in(client)) == [MARK]


@pytest.mark.parametrize("name", list(binaries()))
def test_files_hold_no_value(name):
    """Neither the snapshot nor the append-only file nor the server's own log shows one."""
    server = Server(
        name, appendonly="yes", appendfsync="always", rdbcompression="no", loglevel="debug", aof_use_rdb_preamble="no"
    )
    try:
        with gateway(server.url) as (_, secrets), server.client() as client:
            client.set("mark", MARK)
            client.save()
            files = [path for path in server.folder.rglob("*") if path.is_file()]
            holding = {path.suffix for path in files if occurring([MARK], path.read_bytes())}
            assert holding == {".rdb", ".aof"}
            assert [occurring(secrets, path.read_bytes()) for path in files] == [[] for _ in files]
    finally:
        server.stop()


def test_monitor_and_slowlog_show_no_value(server):
    """Nobody who watches the commands sees one."""
    with socket.socket(socket.AF_UNIX) as watching, server.client() as client:
        client.config_set("slowlog-log-slower-than", 0)
        client.config_set("slowlog-max-len", 10_000)
        client.slowlog_reset()
        watching.connect(server.socket)
        watching.sendall(b"MONITOR\r\n")
        assert watching.recv(5) == b"+OK\r\n"
        with gateway(server.url) as (_, secrets):
            client.set("mark", MARK)
        client.echo("the-end")
        seen = b""
        while b"the-end" not in seen:
            seen += watching.recv(65536)
        slow = repr(client.slowlog_get(10_000)).encode()
        client.config_set("slowlog-log-slower-than", 10_000)
    for data in (seen, slow):
        assert b"EVALSHA" in data
        assert occurring([*secrets, MARK], data) == [MARK]


def test_logs_show_no_value(server, caplog):
    """Not at DEBUG either, of this package, redis-py and asyncio, while all goes well and while it does not."""
    caplog.set_level(logging.DEBUG)
    with gateway(server.url) as (limiter, secrets), Proxy(server.socket) as proxy:
        value = secrets[0]
        with Limiter.from_url(proxy.url, pepper=PEPPER, deadline=DEADLINE) as through:
            through.check(value, STAGE, METHOD)
            proxy.fault = "reset"
            through.check(value, STAGE, METHOD)
            proxy.fault = None
            through.check(value, STAGE, METHOD)

        async def by_asyncio():
            async with AsyncLimiter.from_url(server.url, pepper=PEPPER, deadline=5) as twin:
                await twin.check(value, STAGE, METHOD)

        asyncio.run(by_asyncio(), debug=True)
        with Limiter.from_url("redis://127.0.0.1:1", pepper=PEPPER) as nowhere:
            nowhere.check(value, STAGE, METHOD)
        logging.getLogger("ratelimit").debug(MARK)
        limiter.check(value, STAGE, METHOD)
    assert "ratelimit" in {record.name for record in caplog.records if MARK not in record.getMessage()}
    shown = "\n".join([caplog.text, *(repr(vars(record)) for record in caplog.records)]).encode()
    assert occurring([*secrets, MARK], shown) == [MARK]


def test_what_is_shown_holds_no_value(server):
    """The repr of a key, also of the one that has just been made, of decisions, limiters, snapshots and reports."""
    with gateway(server.url) as (limiter, secrets):
        made = limiter.catalog.create_key("four", plans=["gold"])
        report = limiter.catalog.import_keys(io.StringIO(f"Name,Key,UsagePlanIds\nx,{WRONG},gold\ny,{OWN}-5,no\n"))
        things = [
            made,
            limiter.catalog.keys(),
            limiter.check(made.value, STAGE, METHOD),
            limiter.check(OWN, STAGE, METHOD),
            limiter,
            vars(limiter),
            vars(limiter._namespace),
            limiter._namespace.snapshot,
            report,
            report.warnings,
            limiter.catalog.usage("gold", "2026-03-04", "2026-03-05"),
        ]
        exported = io.StringIO()
        limiter.catalog.export_keys(exported)
        shown = "\n".join([*map(repr, things), *map(str, things), exported.getvalue(), repr(MARK)]).encode()
        assert occurring([*secrets, made.value, WRONG, f"{OWN}-5", MARK], shown) == [MARK]


def told_by(error):
    """All that an error says: itself, its arguments and fields, its causes and contexts, and as a traceback."""
    said, seen = ["".join(traceback.format_exception(error))], set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        said += [str(error), repr(error), repr(error.args), repr(vars(error))]
        error = error.__cause__ or error.__context__
    return "\n".join(said).encode()


def _raise_limit(limiter, value):
    for _ in range(9):
        limiter.check(value, STAGE, METHOD).raise_for_limit()


ERRORS = {
    "taken": (Conflict, lambda limiter, value: limiter.catalog.create_key("x", value)),
    "taken, for a rotation": (
        Conflict,
        lambda limiter, value: limiter.catalog.rotate_key(_an_id(limiter), value=value),
    ),
    "too short": (ConfigError, lambda limiter, value: limiter.catalog.create_key("x", value[:19])),
    "too long": (ConfigError, lambda limiter, value: limiter.catalog.create_key("x", value * 9)),
    "with a blank": (ConfigError, lambda limiter, value: limiter.catalog.create_key("x", f"{value} {value}")),
    "no text": (ConfigError, lambda limiter, value: limiter.catalog.create_key("x", value.encode())),
    "no text in a check": (TypeError, lambda limiter, value: limiter.check(value.encode(), STAGE, METHOD)),
    "a wrong cost": (ValueError, lambda limiter, value: limiter.check(value, STAGE, METHOD, cost=-1)),
    "value for an id": (NotFound, lambda limiter, value: limiter.catalog.get_key(value)),
    "value for an id to change": (NotFound, lambda limiter, value: limiter.catalog.update_key(value, enabled=False)),
    "value for an id to delete": (NotFound, lambda limiter, value: limiter.catalog.delete_key(value)),
    "limited": (RateLimited, _raise_limit),
    "unknown plan": (NotFound, lambda limiter, value: limiter.catalog.create_key("x", f"{value}-2", ["no"])),
    "another pepper": (
        ConfigError,
        lambda limiter, value: Limiter(_client(limiter), pepper="x").check(value, STAGE, METHOD),
    ),
}


def _an_id(limiter):
    return limiter.catalog.keys()[0].id


def _client(limiter):
    return limiter._owned_client


@pytest.mark.parametrize("case", ERRORS)
def test_errors_show_no_value(server, case):
    """Whatever is wrong, the error says so without the value: in its text, its fields, its causes, its traceback."""
    kind, act = ERRORS[case]
    with gateway(server.url) as (limiter, secrets):
        value = secrets[0]
        with pytest.raises(kind) as raised:
            act(limiter, value)
    parts = [*secrets, value[:19], value[8:]]
    assert occurring(parts, told_by(raised.value)) == []
    assert occurring([value], told_by(KeyError(value))) == [value]


@pytest.mark.parametrize("fault", ["swallow", "reset"])
def test_causes_of_lost_replies_show_no_value(server, fault):
    """A decision that says why there is none says nothing of the key."""
    with gateway(server.url) as (_, secrets), Proxy(server.socket) as proxy:
        with Limiter.from_url(proxy.url, pepper=PEPPER, deadline=DEADLINE, denial_cache=False) as limiter:
            limiter.check(secrets[0], STAGE, METHOD)
            proxy.fault = fault
            decision = limiter.check(secrets[0], STAGE, METHOD)
        assert decision.cause == "unknown"
        with pytest.raises(RateLimited) as raised:
            decision.raise_for_limit()
        assert occurring(secrets, repr(decision).encode() + told_by(raised.value)) == []


def test_causes_of_broken_state_show_no_value(server):
    """Nor where Redis answers with an error: another type, no such script, nobody there."""
    with gateway(server.url) as (limiter, secrets), server.client() as client:
        value, name = secrets[0], f"ratelimit:{{{limiter.catalog.keys()[-1].id}}}"
        client.delete(name)
        client.set(name, "no hash")
        decisions = [limiter.check(value, STAGE, METHOD)]
        with Limiter(redis.Redis(port=1, retry=None), pepper=PEPPER) as nowhere:
            decisions.append(nowhere.check(value, STAGE, METHOD))
        assert [decision.cause for decision in decisions] == ["refused", "not_sent"]
        assert "WRONGTYPE" in decisions[0].error
        assert occurring(secrets, "\n".join(decision.error for decision in decisions).encode()) == []
