"""Checks of how the servers, the client and its Sentinels work together."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from math import ceil

from ratelimit.admin.doctor import permissions, slot_checks
from ratelimit.admin.doctor.problem import Check, error, megabytes, warning
from ratelimit.admin.doctor.readings import (
    Deployment,
    Sentinel,
    Server,
    UnreadError,
    as_pairs,
    as_text,
    cli_at,
    scripts_query,
)
from ratelimit.admin.gateway_scripts import GATEWAY_SCRIPTS
from ratelimit.effects import info_fields
from ratelimit.model import MICROSECONDS
from ratelimit.scripts import load

_MAX_LAG_S = 2
_MAX_BEHIND = 1_000_000
"""Bytes of replication: some ten thousand charges."""
_MAX_DOWN_AFTER_MS = 10_000
_SENTINELS = 3
_LEAST_DEADLINE_US = 50_000
_ROUND_TRIPS_OF_A_DEADLINE = 5


def topology(deployment: Deployment) -> Check:
    """Whether this is one primary that takes writes, or a cluster of them."""
    primary = deployment.primary
    if primary.info("role") != "master":
        host, port = primary.info_or("master_host", "?"), primary.info_or("master_port", "?")
        yield error(
            "this server is a replica: it takes no writes, and checks have no answer from Redis",
            f"connect to the primary, {host}:{port}, or by way of Sentinel (redis+sentinel://)",
            5,
        )
    if deployment.has_slots or primary.is_in_cluster:
        return (yield from slot_checks.topology(deployment))
    return f"{primary.product}, one primary, {primary.info('connected_slaves')} replicas"


def replicas(deployment: Deployment) -> Check:
    """Whether replicas keep up with their primary, and can be asked."""
    yield from slot_checks.owners_without_replica(deployment)
    count = 0
    for primary in deployment.primaries:
        for replica in primary.connected_replicas():
            count += 1
            yield from _replica(primary, replica)
    versions = {server.product for server in deployment.servers if server.answers.has("INFO", "all")}
    if len(versions) > 1:
        yield warning(
            f"servers are of different versions ({', '.join(sorted(versions))}): a failover changes what the "
            "server can",
            "upgrade the older ones",
        )
    return f"{count} replicas, none is behind" if count else "there is no replica"


def _replica(primary: Server, replica: Mapping[str, str]) -> Check:
    written = int(primary.info_or("master_repl_offset", "0"))
    where = f"replica {replica.get('ip')}:{replica.get('port')}"
    look = f"{cli_at(replica.get('ip', ''), replica.get('port', ''))} INFO replication"
    lag, offset = replica.get("lag", ""), replica.get("offset", "")
    behind = written - int(offset) if offset.isdigit() else 0
    if replica.get("state") != "online":
        yield warning(
            f"it is {replica.get('state')}, not online: a failover to it loses all keys and counts", look, 5, where
        )
    elif lag.lstrip("-").isdigit() and not 0 <= int(lag) <= _MAX_LAG_S:
        yield warning(
            f"it last acknowledged {lag} s ago: a failover to it loses the charges and revocations since then",
            look,
            5,
            where,
        )
    elif behind > _MAX_BEHIND:
        yield warning(
            f"it is {megabytes(behind)} behind: a failover to it loses the charges and revocations of these",
            look,
            5,
            where,
        )
    return ""


def sentinels(deployment: Deployment) -> Check:
    """Whether Sentinels can fail over, soon, and agree on the primary."""
    if not deployment.client.sentinels:
        return "the client names no Sentinels"
    for sentinel in deployment.sentinels:
        yield from _sentinel(sentinel)
    states = [sentinel.state for sentinel in deployment.sentinels if sentinel.answers.has(*_master(sentinel))]
    named = {f"{state.get('ip')}:{state.get('port')}" for state in states}
    if len(named) > 1:
        yield error(
            f"Sentinels name different primaries ({', '.join(sorted(named))}): gateways may follow either, and two "
            "primaries admit twice",
            f"redis-cli -p 26379 SENTINEL RESET {shlex.quote(deployment.client.service or '')}",
            5,
            "Sentinels",
        )
    in_all = max((int(state.get("num-other-sentinels", "0")) + 1 for state in states), default=0)
    if states and in_all < _SENTINELS:
        yield warning(
            f"there are {in_all} Sentinels: with fewer than three, the loss of one means that nothing fails over",
            f"start further ones, {_SENTINELS} in all, and name them in the URL",
            None,
            "Sentinels",
        )
    if states and in_all > len(deployment.client.sentinels):
        yield warning(
            f"the URL names {len(deployment.client.sentinels)} of {in_all} Sentinels: gateways find no primary when "
            "these are away",
            "name all of them in the URL",
            None,
            "Sentinels",
        )
    return f"{in_all} Sentinels agree"


def _master(sentinel: Sentinel) -> tuple[str, ...]:
    return "SENTINEL", "MASTER", sentinel.service


def _sentinel(sentinel: Sentinel) -> Check:
    where, service = sentinel.where, sentinel.service
    host, _, port = where.removeprefix("Sentinel ").rpartition(":")
    change = f"{cli_at(host.strip('[]'), port)} SENTINEL SET {shlex.quote(service)}"
    quorum, in_all = sentinel.number("quorum"), sentinel.number("num-other-sentinels") + 1
    if quorum > in_all:
        yield error(
            f"its quorum is {quorum}, and there are {in_all} Sentinels: nothing fails over",
            f"{change} quorum {in_all // 2 + 1}",
            None,
            where,
        )
    elif not sentinel.answers.has("SENTINEL", "CKQUORUM", service):
        try:
            sentinel.answers.get("SENTINEL", "CKQUORUM", service)
        except UnreadError as unread:
            if "NOQUORUM" not in unread.message:
                raise
            yield error(
                "too few Sentinels are in touch: nothing fails over", "start the Sentinels that are away", None, where
            )
    down_after = sentinel.number("down-after-milliseconds")
    if down_after > _MAX_DOWN_AFTER_MS:
        yield warning(
            f"down-after-milliseconds is {down_after:,}: for so long nobody replaces a primary that is gone, and "
            "checks have no answer from Redis",
            f"{change} down-after-milliseconds 2000",
            None,
            where,
        )
    return ""


def clocks(deployment: Deployment) -> Check:
    """Whether the servers' clocks differ: a failover is a step of the clock."""
    if deployment.has_own_clock:
        return "a clock of one's own replaces the server's"
    primary = deployment.primary.clock
    mend = "set the clock there by NTP: chronyc makestep"
    ahead_us = primary.ahead_us
    if abs(ahead_us) - primary.took_us // 2 > slot_checks.MAX_CLOCK_DIFFERENCE_US:
        yield warning(
            f"its clock is {_difference(ahead_us)} this machine's: decisions go by the server's, but keys that are "
            "known here expire by this one while Redis is away",
            mend,
            3,
        )
    yield from slot_checks.owners_clocks(deployment)
    for server in deployment.replicas:
        yield from _clock(server.where, server.clock.ahead_us - ahead_us, server.clock.took_us, mend)
    for sentinel in deployment.sentinels:
        fields = info_fields(as_text(sentinel.answers.get("INFO", "server")))
        if sentinel.round_trip is not None and fields.get("server_time_usec", "").isdigit():
            sent_us, answered_us = sentinel.round_trip
            own_us = int(fields["server_time_usec"]) - (sent_us + answered_us) // 2
            yield from _clock(sentinel.where, own_us - ahead_us, answered_us - sent_us, mend)
    return f"the server is {_difference(ahead_us)} this machine, give or take {primary.took_us / 2000:.1f} ms"


def _clock(where: str, ahead_us: int, took_us: int, mend: str) -> Check:
    if abs(ahead_us) - took_us > slot_checks.MAX_CLOCK_DIFFERENCE_US:
        effect = (
            "admits up to that many seconds' tokens more" if ahead_us > 0 else "refills nothing until it has caught up"
        )
        effect = effect if where.startswith("replica") else "may fail over too early or too late"
        yield warning(
            f"its clock is {_difference(ahead_us)} the primary's: after a failover it {effect}", mend, 2, where
        )
    return ""


def _difference(ahead_us: int) -> str:
    return f"{abs(ahead_us) / MICROSECONDS:,.3f} s {'ahead of' if ahead_us > 0 else 'behind'}"


def needed_permissions(deployment: Deployment) -> Check:
    """Whether the gateways' user may do all that a gateway does."""
    _require_gateway(deployment)
    needed = permissions.needed(deployment.names)
    for server in deployment.primaries:
        granted = server.permissions
        if not granted:
            server.answers.get("ACL", "DRYRUN")
        missing = [(need, said) for need in needed if (said := granted.get(need.command))]
        if missing:
            user = deployment.gateway_user or "USER"
            commands = ", ".join(dict.fromkeys(str(need.command[0]) for need, _ in missing))
            grants = dict.fromkeys(_grant(need, said, has_selectors=server.has_selectors) for need, said in missing)
            yield error(
                f"the user {user!r} may not run {commands} as gateways do: checks have no answer from Redis, or what "
                "follows them is left out",
                f"{server.cli} ACL SETUSER {' '.join(map(shlex.quote, [user, *grants]))}",
                None,
                server.where,
            )
    granted = deployment.primary.permissions
    untried = sorted({str(need.command[0]) for need in needed if need.command not in granted})
    but = f", but for {', '.join(untried)}, which cannot be tried" if untried else ""
    return f"the user {deployment.gateway_user!r} may do what gateways do{but}"


def _grant(need: permissions.Need, said: str, *, has_selectors: bool) -> str:
    """Return the words of ACL SETUSER that permit something, by what the server said that is missing."""
    if need.selector and has_selectors:
        return need.selector
    if need.names and re.search(r"\b(keys?|channels?)\b", said) and "run the" not in said:
        return need.names if has_selectors else need.names.removeprefix("%R")
    return f"+{str(need.command[0]).lower()}"


def _require_gateway(deployment: Deployment) -> None:
    """Raise UnreadError if nobody has said who the gateways' user is, and the one who reads is none."""
    if not deployment.is_gateway_named and deployment.primary.permissions.get(permissions.evalsha()):
        raise UnreadError(
            f"the user {deployment.gateway_user!r}, who reads, is no gateway's",
            "ratelimit doctor --gateway-user gateway",
        )


def excess_permissions(deployment: Deployment) -> Check:
    """Whether the gateways' user may do what only administrators should."""
    _require_gateway(deployment)
    user, deeds = deployment.gateway_user or "USER", permissions.excessive(deployment.names)
    for server in deployment.primaries:
        if server.answers.has("ACL", "DRYRUN"):
            permitted = [deed for deed, command in deeds.items() if not server.permissions[command]]
        else:  # before Redis 7
            flags = as_pairs(server.answers.get("ACL", "GETUSER", deployment.gateway_user)).get("flags", ())
            permitted = list(deeds) if "allcommands" in map(as_text, flags) else []
        if permitted:
            yield warning(
                f"the user {user!r} may {', '.join(permitted)}: so may whoever learns a gateway's password",
                "ratelimit doctor --gateway-user gateway  # once that user is made, by lua/ACL.md",
                5,
                server.where,
            )
    return f"the user {user!r} may do nothing that only administrators should"


def default_user(deployment: Deployment) -> Check:
    """Whether anybody who reaches the port is an administrator."""
    for server in deployment.primaries:
        user = as_pairs(server.answers.get("ACL", "GETUSER", "default"))
        flags = {as_text(flag) for flag in user.get("flags", ())}
        if {"on", "nopass"} <= flags:
            yield warning(
                "the user 'default' needs no password: whoever reaches the port may enable keys and erase everything",
                f"{server.cli} ACL SETUSER default off  # once another administrator can log in",
                5,
                server.where,
            )
    return "the user 'default' is off, or has a password"


def scripts(deployment: Deployment) -> Check:
    """Whether each server knows the gateway's scripts, as far as a gateway cannot send them."""
    missing = list[str]()
    may_not_send = deployment.primary.permissions.get(permissions.EVAL)
    for server in deployment.primaries:
        if not server.scripts:
            server.answers.get(*scripts_query())
        lacking = [name for name in GATEWAY_SCRIPTS if not server.scripts.get(name)]
        missing += lacking
        if lacking:
            _require_gateway(deployment)  # whether it may send them is another user's business
        if lacking and may_not_send:
            yield error(
                f"the server does not know {', '.join(lacking)}, and the user {deployment.gateway_user!r} may not send "
                "scripts: checks have no answer from Redis",
                "ratelimit scripts load",
                None,
                server.where,
            )
    for replica in deployment.replicas if may_not_send else ():
        if not all(replica.answers.get(*scripts_query())):
            yield warning(
                "it does not know all scripts: after a failover to it checks have no answer from Redis until they "
                "are loaded",
                "ratelimit scripts load --url " + shlex.quote(f"redis://{replica.where.removeprefix('replica ')}"),
                None,
                replica.where,
            )
    names = ", ".join(dict.fromkeys(missing))
    return "all scripts are loaded" if not missing else f"{names} are loaded when they are first called"


def client_retries(deployment: Deployment) -> Check:
    """Whether the client repeats commands whose answer was lost."""
    retries = deployment.client.retries
    if retries:
        yield warning(
            f"the client repeats a failed command up to {retries} times: limiters and catalogues bypass that, but what "
            "you send through it yourself may be carried out twice",
            "make the client with retry=Retry(NoBackoff(), 0)",
            4,
            "client",
        )
    return "the client repeats nothing"


def latency(deployment: Deployment) -> Check:
    """Whether round trips fit into the deadline."""
    for server in deployment.others:
        yield from _latency(deployment, server)
    return (yield from _latency(deployment, deployment.primary))


def _latency(deployment: Deployment, server: Server) -> Check:
    trips = sorted(trip.took_us for trip in server.round_trips)
    if not trips:
        server.answers.get("TIME")
    median, slowest = trips[len(trips) // 2], trips[max(0, ceil(len(trips) * 0.99) - 1)]
    deadline_us = deployment.deadline_us
    better_us = max(_LEAST_DEADLINE_US, ceil(_ROUND_TRIPS_OF_A_DEADLINE * median / 10_000) * 10_000)
    figures = f"a round trip takes {median / 1000:.2f} ms (p50), {slowest / 1000:.2f} ms (p99)"
    if better_us > deadline_us:
        yield (error if median > deadline_us else warning)(
            f"{figures}, and checks wait for {deadline_us / 1000:g} ms: the first checks of a key, or all, have no "
            "answer in time",
            f"Limiter(..., deadline={better_us / MICROSECONDS:g})",
            None,
            server.where,
        )
    return f"{figures}; a deadline of {better_us / MICROSECONDS:g} s suits"


def slow_commands(deployment: Deployment) -> Check:
    """Whether commands hold up all checks for longer than the deadline."""
    for server in deployment.others:
        yield from _slow_commands(deployment, server)
    return (yield from _slow_commands(deployment, deployment.primary))


def _slow_commands(deployment: Deployment, server: Server) -> Check:
    hashes = {load(name).sha for name in GATEWAY_SCRIPTS}
    own, others = list[int](), dict[str, int]()
    for entry in server.answers.get("SLOWLOG", "GET", 128):
        took_us, arguments = int(entry[2]), list(map(as_text, entry[3]))
        if arguments[:1] and arguments[0].upper() == "EVALSHA" and arguments[1:2] and arguments[1] in hashes:
            own.append(took_us)
        elif took_us > deployment.deadline_us:
            name = arguments[0].upper() if arguments else "?"
            others[name] = max(took_us, others.get(name, 0))
    mend = f"{server.cli} SLOWLOG RESET  # once mended; SLOWLOG GET shows them"
    if others:
        names = ", ".join(f"{name} {took_us / 1000:.0f} ms" for name, took_us in sorted(others.items()))
        yield warning(
            f"commands took longer than the deadline of {deployment.deadline_us / 1000:g} ms, and held up all checks: "
            f"{names}",
            mend,
            None,
            server.where,
        )
    if own and max(own) > deployment.deadline_us:
        yield warning(
            f"{len(own)} checks are in the slow log, the slowest with {max(own) / 1000:.0f} ms: the machine is "
            "overloaded or swaps",
            mend,
            None,
            server.where,
        )
    return (
        "nothing was slower than the deadline" if not own else f"{len(own)} checks in the slow log, within the deadline"
    )
