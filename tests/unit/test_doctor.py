"""The checks of `doctor` by themselves, on readings that no server here gives; and what the report is as data."""

import json
import re
import shlex
from dataclasses import replace

import pytest
from helpers.deployments import only
from helpers.paths import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from ratelimit import DoctorReport, Finding, StoreError, Throttle, UsagePlan
from ratelimit.admin.doctor import checks
from ratelimit.admin.doctor.checks import examine
from ratelimit.admin.doctor.read import CLUSTER_READS, SERVER_READS, Doctor, Peer, PeerReply
from ratelimit.admin.doctor.readings import Answers, ClientSettings, Deployment, RoundTrip, Sample, Sentinel, Server
from ratelimit.effects import Primaries
from ratelimit.local.leased_bucket import SharedFigures
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.plan_documents import plan_json
from ratelimit.registry.redis_keys import RedisKeys

NAMES = RedisKeys("ratelimit")
INFO = {
    "redis_version": "7.2.4", "role": "master", "connected_slaves": "0", "loading": "0", "used_memory": "1000",
    "maxmemory": "0", "total_system_memory": "1000000", "maxmemory_policy": "noeviction", "aof_enabled": "1",
    "rdb_last_bgsave_status": "ok", "aof_last_write_status": "ok", "connected_clients": "1", "maxclients": "10000",
    "uptime_in_seconds": "60", "master_repl_offset": "2000001",
}  # fmt: skip
PRIMARY = "primary"


def answers(info, replies=()):
    text = "# All\r\n" + "".join(f"{name}:{value}\r\n" for name, value in info.items())
    return Answers("doctor", {("INFO", "all"): text.encode(), **dict(replies)})


def server(where=PRIMARY, *, ahead_us=0, took_us=100, **info):
    trip = RoundTrip(10**15, 10**15 + took_us // 2 + ahead_us, 10**15 + took_us)
    return Server(where, "redis-cli", answers({**INFO, **info}), (trip,) * 50)


def sentinel(number, **state):
    """A Sentinel that sees two others, and is patient for 2 s."""
    fields = {"ip": "10.0.0.1", "port": "6379", "quorum": "2", "num-other-sentinels": "2",
              "down-after-milliseconds": "2000", **state}  # fmt: skip
    flat = [part.encode() for pair in fields.items() for part in pair]
    replies = {("SENTINEL", "MASTER", "limits"): flat, ("SENTINEL", "CKQUORUM", "limits"): b"OK 3 usable Sentinels"}
    return Sentinel(f"Sentinel s{number}:26379", "limits", Answers("doctor", replies))


def deployment(primary=None, scripts=None, permissions=None, **fields):
    primary = replace(primary or server(), scripts=scripts or {}, permissions=permissions or {})
    values = {
        "names": NAMES, "probes": ["x"], "has_own_clock": False, "primary": primary, "sample": Sample(),
        "gateway_user": "gateway", "is_gateway_named": True,
        "client": ClientSettings(0), "deadline_us": 50_000, **fields,
    }  # fmt: skip
    return Deployment(**values)


def severity(report, check, where=None):
    return only(report, check, where).severity


@pytest.mark.parametrize(
    ("replica", "expected"),
    [
        ("state=online,offset=2000001,lag=1", "ok"),
        ("state=online,offset=1000001,lag=0", "ok"),
        ("state=online,offset=1000000,lag=0", "warning"),
        ("state=online,offset=2000001,lag=2", "ok"),
        ("state=online,offset=2000001,lag=3", "warning"),
        ("state=online,offset=2000001,lag=-1", "warning"),
        ("state=wait_bgsave,offset=0,lag=0", "warning"),
    ],
)
def test_a_replica_that_lags(replica, expected):
    """By time since it was heard of, by bytes, or while it is not online yet."""
    primary = server(connected_slaves="1", slave0=f"ip=10.0.0.2,port=6379,{replica}")
    finding = only(examine(deployment(primary)), "replicas")
    assert finding.severity == expected
    if expected == "warning":
        assert (finding.where, finding.promise) == ("replica 10.0.0.2:6379", 5)
        assert finding.mend == "redis-cli -h 10.0.0.2 -p 6379 INFO replication"


HOSTILE = "a;reboot\n$(reboot)"
"""What a server might call itself: it must not become a command of whoever copies ours."""


def test_what_a_server_names_is_no_command():
    """The address of a replica, and the id of a plan, in commands: one word each."""
    primary = server(slave0=f"ip={HOSTILE.replace(chr(10), '')},port=1 2,state=x,offset=0,lag=0")
    primary.answers.add([("HGETALL", NAMES.catalog)], [[f"plan:{HOSTILE}".encode(), b"{"]])
    report = examine(deployment(primary))
    look = shlex.split(only(report, "replicas").mend)
    assert look == ["redis-cli", "-h", HOSTILE.replace("\n", ""), "-p", "1 2", "INFO", "replication"]
    unreadable = [finding.mend for finding in report.findings if "cannot be read" in finding.message]
    assert [shlex.split(mend)[:4] for mend in unreadable] == [["redis-cli", "HDEL", NAMES.catalog, f"plan:{HOSTILE}"]]


def test_versions_that_differ():
    """Of the primary and its replica; Valkey's own number counts, not the one of the Redis that it stands for."""
    valkey = {"redis_version": "7.2.4", "valkey_version": "8.1.1"}
    mixed = deployment(server(**valkey), replicas=(server("replica a:1"),))
    assert "Redis 7.2.4, Valkey 8.1.1" in only(examine(mixed), "replicas").message
    same = deployment(server(**valkey), replicas=(server("replica a:1", **valkey),))
    assert severity(examine(same), "replicas") == "ok"


@pytest.mark.parametrize(
    ("version", "expected"),
    [("6.0.16", "error"), ("6.2.0", "warning"), ("7.0.0", "ok"), ("10.1", "ok"), ("x", "unknown")],
)
def test_versions(version, expected):
    """The oldest that is supported, and the oldest that confines a gateway."""
    assert severity(examine(deployment(server(redis_version=version))), "version") == expected


@pytest.mark.parametrize(
    ("ahead_us", "took_us", "expected"),
    [
        (0, 100, "ok"),
        (500_200, 100, "warning"),
        (-500_200, 100, "warning"),
        (499_000, 100, "ok"),
        (700_000, 600_000, "ok"),  # nobody can tell: the answer was under way for that long
    ],
)
def test_clocks_of_replicas(ahead_us, took_us, expected):
    """Against the primary's, less what the question took."""
    replica = server("replica a:1", ahead_us=ahead_us + 77, took_us=took_us)
    finding = only(examine(deployment(server(ahead_us=77), replicas=(replica,))), "clocks")
    assert finding.severity == expected
    assert finding.where == ("replica a:1" if expected == "warning" else PRIMARY)


def test_the_clock_of_a_sentinel():
    """Its INFO holds it."""
    late = sentinel(1)
    late.answers.add([("INFO", "server")], [f"server_time_usec:{10**15 - 3_000_000}\r\n".encode()])
    asked = Sentinel(late.where, late.service, late.answers, (10**15, 10**15 + 100))
    client = ClientSettings(0, "default", "limits", ("s1:26379",))
    report = examine(deployment(client=client, sentinels=(asked,)))
    assert severity(report, "clocks", "Sentinel s1:26379") == "warning"


def of_sentinels(*sentinels, in_url=3):
    client = ClientSettings(0, "default", "limits", tuple(f"s{number}:26379" for number in range(in_url)))
    report = examine(deployment(client=client, sentinels=sentinels))
    return [finding for finding in report.findings if finding.check == "sentinels"]


def test_sentinels_that_agree():
    """Three that see each other."""
    assert [finding.severity for finding in of_sentinels(*map(sentinel, range(3)))] == ["ok"]


def test_sentinels_that_disagree():
    """Two primaries."""
    (finding,) = of_sentinels(sentinel(0), sentinel(1), sentinel(2, ip="10.0.0.9"))
    assert (finding.severity, finding.promise) == ("error", 5)
    assert "10.0.0.1:6379, 10.0.0.9:6379" in finding.message


def test_sentinels_that_the_url_does_not_name():
    """The URL names one of three."""
    (finding,) = of_sentinels(sentinel(0), in_url=1)
    assert (finding.severity, finding.mend) == ("warning", "name all of them in the URL")


def test_sentinels_out_of_touch():
    """They know each other, and most do not answer."""
    lonely = sentinel(0)
    refusal = StoreError("Redis answered with an error: NOQUORUM 1 usable Sentinels. Not enough available Sentinels")
    lonely.answers.add([("SENTINEL", "CKQUORUM", "limits")], [refusal])
    findings = of_sentinels(lonely, sentinel(1), sentinel(2))
    assert [(finding.severity, finding.where) for finding in findings] == [("error", "Sentinel s0:26379")]


def test_a_service_with_slots():
    """Behind one address, which does not say that it is a cluster: that is well."""
    primary = server()
    primary.answers.add([("HLEN", NAMES.intents)], [0])
    report = examine(deployment(primary, has_slots=True))
    assert severity(report, "topology") == severity(report, "slots") == severity(report, "unfinished") == "ok"


def node(where=PRIMARY, *, state="ok", assigned=16384, failing=0, size=3, coverage="no", **info):
    """A primary of a cluster."""
    made = server(where, cluster_enabled="1", **info)
    fields = {"state": state, "slots_assigned": assigned, "slots_fail": failing, "size": size}
    text = "".join(f"cluster_{name}:{value}\r\n" for name, value in fields.items())
    made.answers.add(CLUSTER_READS, [text.encode(), [b"cluster-require-full-coverage", coverage.encode()]])
    made.answers.add([("HLEN", NAMES.intents)], [0])
    return made


def cluster(first=None, *others, **fields):
    fields = {"has_slots": True, "has_cluster_client": True, **fields}
    return deployment(first or node(connected_slaves="1"), others=others, **fields)


@pytest.mark.parametrize(
    ("fault", "check", "expected", "words"),
    [
        ({"assigned": 16000}, "slots", "error", "384 of 16,384 slots have no owner"),
        ({"failing": 5461, "state": "fail"}, "slots", "error", "the owner of 5,461 slots is gone"),
        ({"state": "fail"}, "slots", "error", "it reports that the cluster is down"),
        ({"coverage": "yes"}, "slots", "warning", "cluster-require-full-coverage is yes"),
        ({"connected_slaves": "0"}, "replicas", "warning", "it has no replica"),
        ({"ahead_us": 2_000_000}, "clocks", "warning", "up to 3 requests more"),
        ({"redis_version": "7.0.0"}, "replicas", "warning", "different versions"),
    ],
)
def test_a_fault_of_one_primary_of_a_cluster(fault, check, expected, words):
    """It is told with the primary's name, and its command is for that one; without it all is well."""
    where = "primary a:2"
    well, ill = node(where, connected_slaves="1"), node(where, **{"connected_slaves": "1", **fault})
    assert severity(examine(cluster(None, well)), check) == "ok"
    finding = only(examine(cluster_with_plan(ill)), check)
    assert (finding.severity, words in finding.message) == (expected, True)
    assert finding.where in (where, "replicas")


def cluster_with_plan(other):
    """The catalogue has a plan of 2 requests per second, 3 at once."""
    made = cluster(None, other)
    plan = plan_json(UsagePlan("gold", Throttle(2, 3)))
    made.primary.answers.add([("HGETALL", NAMES.catalog)], [[b"plan:gold", plan.encode()]])
    return made


def test_shared_limits():
    """What a live limiter did about them is told; that many answers come too late is a warning."""
    figures = SharedFigures(held=3, demanded=90, requests=20, waits=2, hedges=0, late=2, granted=100, returned=7)
    finding = only(examine(cluster(shared={"ratelimit:account": figures})), "shared-limits")
    assert (finding.severity, finding.message) == (
        "ok",
        "ratelimit:account: 90 units demanded, 100 granted, 7 returned, 3 held; 2 checks waited for 20 requests",
    )
    late = {"ratelimit:account": figures._replace(late=3)}
    finding = only(examine(cluster(shared=late)), "shared-limits")
    assert (finding.severity, "3 of 20 requests for units of ratelimit:account" in finding.message) == ("warning", True)


def test_a_client_of_one_node():
    """Of several: it does not reach the others' keys."""
    finding = only(examine(cluster(has_cluster_client=False)), "topology")
    assert (finding.severity, "?cluster=true" in finding.mend) == ("error", True)


def test_a_service_that_hides_settings():
    """CONFIG is no command there: unknown, with where to look."""
    primary = server(connected_slaves="1")
    refusal = StoreError("Redis refused the command: unknown command 'CONFIG'")
    primary.answers.add([("CONFIG", "GET", "min-replicas-to-write")], [refusal])
    finding = only(examine(deployment(primary)), "min-replicas")
    assert (finding.severity, finding.mend) == ("unknown", "look it up in the console of the service, which hides this")


def test_a_server_that_loads():
    """It says so itself."""
    assert severity(examine(deployment(server(loading="1"))), "loading") == "error"


def test_a_median_beyond_the_deadline_is_an_error():
    """No check has an answer in time; above a fifth of it, the first ones of a key have none."""
    for took_us, expected in ((10_000, "ok"), (10_001, "warning"), (50_000, "warning"), (50_001, "error")):
        assert severity(examine(deployment(server(took_us=took_us))), "latency") == expected


REPLIES = st.recursive(
    st.none() | st.integers() | st.binary(max_size=9) | st.text(max_size=9) | st.just(StoreError("no")),
    lambda inner: st.lists(inner, max_size=4),
)


@given(st.data())
def test_no_reply_makes_it_raise(data):
    """Whatever servers answer: a finding of each check."""
    commands = [*SERVER_READS, ("HGETALL", NAMES.catalog), ("SLOWLOG", "GET", 128), ("ZCARD", NAMES.keys),
                ("ACL", "GETUSER", "default"), ("HMGET", NAMES.former_catalog, "epoch"), ("SCAN",), ("HKEYS",),
                ("ZREVRANGEBYSCORE", NAMES.replicas, "+inf", "-inf", "WITHSCORES")]  # fmt: skip
    replies = {command: data.draw(REPLIES) for command in commands}
    if data.draw(st.booleans()):
        values = st.sampled_from(["0", "1", "-1", "x", "", "9" * 30])
        lines = [f"{name}:{data.draw(values)}" for name in INFO if data.draw(st.booleans())]
        replies["INFO", "all"] = "\r\n".join([*lines, "slave0:ip=1,port=x,offset=,lag=y", "slave1:"]).encode()
    primary = Server(PRIMARY, "redis-cli", Answers("", replies))
    report = examine(deployment(primary, sample=Sample(("a",))))
    assert {finding.check for finding in report.findings} == set(checks.NAMES)


def result_of(operation, reply_to, nodes=("",)):
    """Run an operation on made-up replies."""
    replies = None
    while True:
        try:
            request = operation.send(replies)
        except StopIteration as finished:
            return finished.value
        replies = nodes if isinstance(request, Primaries) else [reply_to(command) for command in request]


@settings(max_examples=25)
@given(st.data())
def test_no_reply_stops_the_reading(data):
    """Whatever servers answer to whatever is asked of them, the deployment is read, and has a finding of each check."""
    doctor = Doctor(Namespace("ratelimit", None, None), ClientSettings(0), gateway_user=None, deadline=0.05)
    nodes = data.draw(st.sampled_from([("",), ("a:1", "[::1]:2"), ("a:1",)]))
    read = result_of(doctor.read(), lambda _: data.draw(REPLIES), nodes)
    report = doctor.report(read, {peer: PeerReply([None], 1, 2) for peer in doctor.peers(read)})
    assert {finding.check for finding in report.findings} == set(checks.NAMES)


def test_peers_by_address():
    """IPv6 in brackets; what is no address is left out; Sentinels by their numbers."""
    doctor = Doctor(Namespace("ratelimit", None, None), ClientSettings(0, "default", "limits", ("s:1",)),
                    gateway_user=None, deadline=0.05)  # fmt: skip
    primary = server(slave0="ip=::1,port=6379", slave1="ip=,port=6379", slave2="ip=a,port=x")
    peers = doctor.peers(deployment(primary))
    assert [(peer.where, peer.address) for peer in peers] == [
        ("replica [::1]:6379", ("::1", 6379)),
        ("Sentinel s:1", 0),
    ]


def test_a_peer_that_was_asked_and_one_that_was_not():
    """A reply becomes a server, a failure a finding."""
    doctor = Doctor(Namespace("ratelimit", None, None), ClientSettings(0), gateway_user=None, deadline=0.05)
    asked = Peer("replica a:1", ("a", 1), (("TIME",), ("INFO", "all")))
    info = "\r\n".join(f"{name}:{value}" for name, value in INFO.items()).encode()
    reply = PeerReply([[b"1000000000", b"5"], info], 10**15, 10**15 + 10)
    away = Peer("replica b:2", ("b", 2), (("TIME",),))
    report = doctor.report(deployment(), {asked: reply, away: StoreError("it is away")})
    assert severity(report, "eviction", "replica a:1") == "ok"
    finding = only(report, "replicas", "replica b:2")
    assert (finding.severity, finding.message) == ("unknown", "it could not be read: it is away")


def test_the_report_as_data():
    """The names that scripts go by; nothing but text, numbers and null."""
    finding = Finding(
        "eviction", "error", "primary", "it evicts", "redis-cli CONFIG SET maxmemory-policy noeviction", 2
    )
    report = DoctorReport((finding, Finding("memory", "ok", "primary", "there is room")))
    assert json.loads(json.dumps(report.as_dict())) == {
        "format": 1,
        "worst": "error",
        "findings": [
            {
                "check": "eviction",
                "severity": "error",
                "where": "primary",
                "message": "it evicts",
                "mend": "redis-cli CONFIG SET maxmemory-policy noeviction",
                "promise": 2,
            },
            {
                "check": "memory",
                "severity": "ok",
                "where": "primary",
                "message": "there is room",
                "mend": "",
                "promise": None,
            },
        ],
    }
    assert report.without(["eviction"]).worst == "ok"
    assert DoctorReport(()).worst == "ok"


def test_the_worst_comes_first():
    """Errors, warnings, what is unknown, what is well."""
    report = examine(deployment(server(maxmemory_policy="allkeys-lru", redis_version="6.2.1")))
    order = ["error", "warning", "unknown", "ok"]
    severities = [finding.severity for finding in report.findings]
    assert severities == sorted(severities, key=order.index)
    assert set(severities) == set(order)


def test_the_page_has_every_check():
    """docs/how-to/doctor.md lists each once, by its name."""
    page = (ROOT / "docs" / "how-to" / "doctor.md").read_text(encoding="utf-8").split("## What it looks at")[1]
    rows = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
    assert [name for row in rows for name in re.findall(r"`([\w-]+)`", row)] == list(checks.NAMES)
