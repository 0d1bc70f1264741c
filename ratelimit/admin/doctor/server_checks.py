"""Checks of one server, a primary or a replica: a replica may be the primary tomorrow."""

from __future__ import annotations

from ratelimit.admin.doctor.problem import Check, error, megabytes, warning
from ratelimit.admin.doctor.readings import Server

BYTES_PER_KEY = 800
"""About what a key takes once it was used: record, index, lists, hash (docs/performance.md)."""
_NEARLY_FULL = 0.8
_NEARLY_ALL_CLIENTS = 0.8
_CONNECTIONS_OF_A_PROCESS = 66
_MAX_LAG_S = 2
_IDLE_S = 60
_NOSCRIPT_PER_HOUR = 60
_OLDEST, _CONFINING = (6, 2), (7, 0)


def eviction(server: Server) -> Check:
    """Whether keys and counts may be thrown away."""
    policy = server.info_or("maxmemory_policy", "") or server.setting("maxmemory-policy")
    if policy != "noeviction":
        yield error(
            f"maxmemory-policy is {policy}: under memory pressure the server throws away counts and API keys, and "
            "whoever was out of tokens is admitted again",
            server.set_command("maxmemory-policy", "noeviction"),
            2,
        )
    return "maxmemory-policy is noeviction"


def memory(server: Server) -> Check:
    """How much is left until writes are refused."""
    used, limit = server.number("used_memory"), server.number("maxmemory")
    total = int(server.info_or("total_system_memory", "0"))
    most = limit or total
    if not most:
        return f"{megabytes(used)} used, no limit"
    more = server.set_command("maxmemory", max(2 * limit, 2 * used)) if limit else "give the machine more memory"
    left = max(0, most - used) // BYTES_PER_KEY
    room = f"{megabytes(used)} of {megabytes(most)} used, room for about {left:,} more keys"
    if limit and used >= limit:
        yield error(
            f"the server is full, and refuses writes (OOM): checks that would admit have no answer from Redis; {room}",
            more,
        )
    elif used > _NEARLY_FULL * most:
        end = "writes are refused (OOM)" if limit else "the system ends the server, as maxmemory is not set"
        yield warning(f"memory is nearly full: {room}; then {end}", more)
    return room if limit else f"{room} (of the machine: maxmemory is not set)"


def persistence(server: Server) -> Check:
    """Whether a restart loses everything."""
    if server.number("aof_enabled"):
        return "appendonly is on"
    mend = server.set_command("appendonly", "yes")
    if server.setting("save"):
        yield warning(
            "there are snapshots alone (appendonly is off): a restart goes back to the last one, and with it counts, "
            "changes of plans, and revocations",
            mend,
            5,
        )
    elif server.info("role") == "master":
        yield error("nothing is written to disk: a restart loses all API keys, plans and counts", mend, 5)
    else:
        yield warning(
            "nothing is written to disk: once this is the primary, a restart loses all API keys, plans and counts",
            mend,
            5,
        )
    return ""


def appendfsync(server: Server) -> Check:
    """How much a crash of the machine loses."""
    if not server.number("aof_enabled"):
        return "appendonly is off"
    policy = server.setting("appendfsync")
    if policy == "no":
        yield warning(
            "appendfsync is no: a crash of the machine loses what the system had not written yet, about 30 s of counts "
            "and revocations",
            server.set_command("appendfsync", "everysec"),
            5,
        )
    return f"appendfsync is {policy}"


def last_write(server: Server) -> Check:
    """Whether the disk takes what is written to it."""
    if server.info_or("aof_last_write_status", "ok") != "ok":
        yield error(
            "the last write to the append-only file failed (MISCONF): the server refuses writes, and checks "
            "have no answer from Redis",
            "free space on the server's disk, or mend its permissions",
        )
    if server.info("rdb_last_bgsave_status") != "ok":
        stops = bool(server.setting("save")) and server.setting("stop-writes-on-bgsave-error") == "yes"
        message = "the last snapshot failed: "
        if stops:
            message += "the server refuses writes (MISCONF), and checks have no answer from Redis"
        else:
            message += "a restart may go back to an older one"
        problem = error if stops else warning
        yield problem(
            message,
            f"{server.cli} BGSAVE  # once its folder has space and may be written",
            None if stops else 5,
        )
    return "the last write and the last snapshot succeeded"


def loading(server: Server) -> Check:
    """Whether the server answers yet."""
    if server.number("loading"):
        yield error("the server is loading its data, and answers no check (LOADING)", "wait until it has loaded")
    return "the data is loaded"


def min_replicas(server: Server) -> Check:
    """Whether a primary that is cut off stops taking writes."""
    replicates = server.info("role") != "master" or server.number("connected_slaves") > 0
    least = server.number_set("min-replicas-to-write")
    if not replicates and not least:
        return "there is no replica"
    if not least:
        yield warning(
            "min-replicas-to-write is 0: a primary that is cut off goes on admitting and taking changes, which are all "
            "lost at the failover, revocations among them",
            server.set_command("min-replicas-to-write", 1),
            5,
        )
        return ""
    if server.info("role") == "master" and int(server.info_or("min_slaves_good_slaves", "0")) < least:
        yield error(
            f"fewer than min-replicas-to-write ({least}) replicas keep up: the server refuses writes (NOREPLICAS), and "
            "checks have no answer from Redis",
            server.set_command("min-replicas-to-write", 0) + "  # until replicas are back",
        )
    lag = server.number_set("min-replicas-max-lag")
    if lag > _MAX_LAG_S or not lag:
        yield warning(
            f"min-replicas-max-lag is {lag}: a primary that is cut off goes on for "
            f"{f'about {lag} s' if lag else 'ever'}, and what it admitted is lost at the failover",
            server.set_command("min-replicas-max-lag", _MAX_LAG_S),
            5,
        )
    return f"writes need {least} replicas that are at most {lag} s behind"


def max_clients(server: Server) -> Check:
    """Whether there is room for more connections."""
    connected, most = server.number("connected_clients"), server.number("maxclients")
    if connected > _NEARLY_ALL_CLIENTS * most:
        yield warning(
            f"{connected:,} of {most:,} connections are in use: gateways that find none are answered with an error, "
            "and their checks no answer from Redis",
            server.set_command("maxclients", 2 * most),
        )
    processes = max(0, most - connected) // _CONNECTIONS_OF_A_PROCESS
    return f"{connected:,} of {most:,} connections, room for {processes:,} processes with 64 threads"


def idle_connections(server: Server) -> Check:
    """Whether connections end when they are idle, and whether dead ones are noticed."""
    timeout, keepalive = server.number_set("timeout"), server.number_set("tcp-keepalive")
    if 0 < timeout < _IDLE_S:
        yield warning(
            f"timeout is {timeout} s: idle connections are closed, and the first checks after a quiet time wait for "
            "new ones, or have no answer in time",
            server.set_command("timeout", 0),
        )
    if not keepalive:
        yield warning(
            "tcp-keepalive is 0: connections of machines that are gone stay for ever, until maxclients is reached",
            server.set_command("tcp-keepalive", 300),
        )
    return f"timeout is {timeout}, tcp-keepalive {keepalive}"


def version(server: Server) -> Check:
    """Whether the server is one that is tested, and what it lacks."""
    if server.version < _OLDEST:
        yield error(f"{server.product} is not supported: scripts may fail half way", "upgrade it to 7.2 or newer", 1)
    elif server.version < _CONFINING:
        yield warning(
            f"{server.product} cannot tell reading from writing: whoever has a gateway's password can rewrite API keys "
            "(lua/ACL.md)",
            "upgrade it to 7.2 or newer",
            5,
        )
    return server.product


def script_flushes(server: Server) -> Check:
    """Whether somebody empties the script cache again and again."""
    count = server.info_or("errorstat_NOSCRIPT", "count=0").rpartition("=")[2]
    hours = max(1.0, server.number("uptime_in_seconds") / 3600)
    if int(count if count.isdigit() else 0) > _NOSCRIPT_PER_HOUR * hours:
        yield warning(
            f"a script was not known {count} times (NOSCRIPT): somebody runs SCRIPT FLUSH, or another server answers "
            "now and then; each costs a check a second round trip",
            f"{server.cli} CONFIG RESETSTAT  # once it is found out who does that",
        )
    return f"unknown scripts (NOSCRIPT): {count}"
