"""`doctor` of a primary with a replica and a Sentinel: what is asked of each, its commands carried out, gone."""

import asyncio
import shlex

import pytest
import redis
from helpers.commands import run
from helpers.deployments import PATIENT_S, only, redis_cli
from helpers.ports import free_port
from helpers.sentinel import NAME, WatchedPrimary
from helpers.servers import NAMES
from helpers.waiting import wait_for

from ratelimit import AsyncCatalog, AsyncLimiter, Catalog, Limiter


@pytest.fixture(params=NAMES)
def watched(request):
    with WatchedPrimary(request.param) as made:
        yield made


def report(watched):
    with Limiter.from_url(watched.url, deadline=5) as limiter:
        return limiter.catalog.doctor(deadline=PATIENT_S)


def carry_out(watched, mend):
    with watched.primary.client() as client:
        redis_cli(shlex.split(mend, comments=True), client)


def of(watched):
    return {"primary": "primary", "replica": f"replica 127.0.0.1:{watched.replica.port}",
            "sentinel": f"Sentinel 127.0.0.1:{watched.sentinel[1]}"}  # fmt: skip


def test_each_server_is_asked(watched):
    """A setting of the replica is reported as the replica's, with the command that reaches it; so of the primary's."""
    places = of(watched)
    assert only(report(watched), "eviction", places["replica"]).severity == "ok"
    with watched.replica.client() as client:
        client.config_set("maxmemory-policy", "volatile-ttl")
    found = report(watched)
    finding = only(found, "eviction", places["replica"])
    assert finding.severity == "error"
    assert finding.mend == f"redis-cli -h 127.0.0.1 -p {watched.replica.port} CONFIG SET maxmemory-policy noeviction"
    assert only(found, "eviction", "primary").severity == "ok"
    carry_out(watched, finding.mend)
    assert only(report(watched), "eviction", places["replica"]).severity == "ok"
    assert only(found, "clocks").severity == "ok"


def test_min_replicas_of_all_servers(watched):
    """Not set: of both, as the replica may be the primary tomorrow. Then a lag that is too long."""
    places = of(watched)
    found = report(watched)
    for place in ("primary", "replica"):
        finding = only(found, "min-replicas", places[place])
        assert (finding.severity, finding.promise) == ("warning", 5)
        assert finding.mend.endswith("CONFIG SET min-replicas-to-write 1")
        carry_out(watched, finding.mend)
    found = report(watched)
    for place in ("primary", "replica"):
        finding = only(found, "min-replicas", places[place])
        assert (finding.severity, finding.promise) == ("warning", 5)
        assert finding.mend.endswith("CONFIG SET min-replicas-max-lag 2")
        carry_out(watched, finding.mend)
    wait_for(lambda: all(only(report(watched), "min-replicas", places[place]).severity == "ok"
                         for place in ("primary", "replica")))  # fmt: skip


def test_scripts_of_a_replica(watched):
    """Servers do not replicate them: where gateways may not send any, a failover needs them there beforehand."""
    place = of(watched)["replica"]
    for server in (watched.primary, watched.replica):
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "gateway", "on", ">x", "~*", "&*", "+@all", "-eval")

    def finding():
        with Limiter.from_url(watched.url.replace("://", "://gateway:x@"), deadline=5) as limiter:
            return only(limiter.catalog.doctor(), "scripts")

    with watched.primary.client() as client, watched.replica.client() as replica:
        Catalog(client).load_scripts()
        replica.script_flush()  # Redis 6.2 did replicate them
        late = finding()
        assert (late.severity, late.where) == ("warning", place)
        assert run(*shlex.split(late.mend)[1:]).exit_code == 0
        assert finding().severity == "ok"
        client.execute_command("ACL", "SETUSER", "gateway", "+eval")
        replica.script_flush()
        assert finding().severity == "ok"


def test_persistence_of_a_replica_is_a_warning(watched):
    """Its data is the primary's, until it is the primary."""
    found = report(watched)
    assert only(found, "persistence", "primary").severity == "error"
    finding = only(found, "persistence", of(watched)["replica"])
    assert finding.severity == "warning"
    carry_out(watched, finding.mend)
    assert only(report(watched), "persistence", of(watched)["replica"]).severity == "ok"
    with watched.replica.client() as client:
        # A server that writes its first append-only file does not end.
        wait_for(lambda: not client.info("persistence")["aof_rewrite_in_progress"])


def test_sentinels(watched):
    """One alone, too patient, and with a quorum that it cannot reach: each with its command, until but one is left."""
    place = of(watched)["sentinel"]
    few = only(report(watched), "sentinels", "Sentinels")
    assert (few.severity, few.message.startswith("there are 1 Sentinels")) == ("warning", True)
    patient = only(report(watched), "sentinels", place)
    assert patient.severity == "warning"
    assert patient.mend.endswith(f"SENTINEL SET {NAME} down-after-milliseconds 2000")
    carry_out(watched, patient.mend)
    with redis.Redis(*watched.sentinel) as sentinel:
        sentinel.execute_command("SENTINEL", "SET", NAME, "quorum", "5")
    quorum = only(report(watched), "sentinels", place)
    assert quorum.severity == "error"
    assert quorum.mend.endswith(f"SENTINEL SET {NAME} quorum 1")
    carry_out(watched, quorum.mend)
    findings = [finding for finding in report(watched).findings if finding.check == "sentinels"]
    assert findings == [few]


def test_the_address_of_a_replica(watched):
    """Where the primary is expected: said, and where that is; by the primary's address it is gone."""
    with redis.Redis(port=watched.replica.port) as client:
        finding = only(Catalog(client).doctor(), "topology")
    assert (finding.severity, finding.promise) == ("error", 5)
    assert f"127.0.0.1:{watched.primary.port}" in finding.mend
    with redis.Redis(port=watched.primary.port) as client:
        assert only(Catalog(client).doctor(), "topology").severity == "ok"


def test_a_replica_that_does_not_answer(watched):
    """Stopped: it could not be asked, and once it is late, it is behind; going on, it is asked again."""
    place = of(watched)["replica"]
    with watched.replica.stopped():
        with watched.primary.client() as client:
            wait_for(lambda: client.info("replication")["slave0"]["lag"] > 2, 20)
        severities = {
            finding.severity
            for finding in report(watched).findings
            if (finding.check, finding.where) == ("replicas", place)
        }
        assert severities == {"unknown", "warning"}
    wait_for(lambda: only(report(watched), "replicas").severity == "ok", 20)


def test_a_sentinel_that_does_not_answer(watched):
    """Another one is named in the URL, and is not there."""
    port = free_port()
    url = watched.url.replace("://", f"://127.0.0.1:{port},")
    with Limiter.from_url(url, deadline=5) as limiter:
        finding = only(limiter.catalog.doctor(), "sentinels", f"Sentinel 127.0.0.1:{port}")
    assert finding.severity == "warning"


def test_twins_find_the_same(watched):
    """Of the primary, the replica and the Sentinel."""

    async def awaited():
        async with AsyncLimiter.from_url(watched.url, deadline=5) as limiter:
            return await limiter.catalog.doctor(deadline=PATIENT_S)

    places = [
        [(finding.check, finding.where, finding.severity) for finding in each.findings]
        for each in (report(watched), asyncio.run(awaited()))
    ]
    assert places[0] == places[1]
    assert {where for _, where, _ in places[0]} >= set(of(watched).values())


def test_a_unix_socket_leads_to_no_replica(watched):
    """The replica is named, and unknown; both twins say the same."""
    place = of(watched)["replica"]
    with watched.primary.client() as client:
        finding = only(Catalog(client).doctor(), "replicas", place)

    async def awaited():
        async with watched.primary.async_client() as client:
            return await AsyncCatalog(client).doctor()

    assert only(asyncio.run(awaited()), "replicas", place) == finding
    assert finding.severity == "unknown"
    assert "Unix socket" in finding.message
