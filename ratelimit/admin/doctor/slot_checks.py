"""Checks of a cluster: whether each slot has a primary, each primary a replica, and how far their clocks differ."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

from ratelimit.admin.doctor.problem import Check, error, warning
from ratelimit.admin.doctor.readings import Deployment, Server, as_text
from ratelimit.effects import info_fields
from ratelimit.local.leased_bucket import SharedFigures
from ratelimit.model import MICROSECONDS, Throttle

SLOTS = 16384
FULL_COVERAGE = "cluster-require-full-coverage"
MAX_CLOCK_DIFFERENCE_US = 500_000
_MAX_LATE_SHARE = 0.1


def topology(deployment: Deployment) -> Check:
    """Whether the client reaches the owners of all slots."""
    primary = deployment.primary
    if not primary.is_in_cluster:
        return f"{primary.product} behind one address, which enforces slots"
    info = cluster_info(primary)
    owners = int(info.get("cluster_size", "0"))
    if owners > 1 and not deployment.has_cluster_client:
        yield error(
            f"this is one node of a cluster of {owners} primaries, and the client takes it for the only server: checks "
            "of other nodes' keys have no answer from Redis",
            "add ?cluster=true to the URL, or pass a cluster client",
        )
    return f"{primary.product}, a cluster of {owners} primaries"


def slots(deployment: Deployment) -> Check:
    """Whether each slot has an owner that answers, and what happens when one has none."""
    if not deployment.has_slots:
        deployment.primary.info_or("cluster_enabled", "")  # whether they do may be unknown
        return "keys do not lie in slots"
    if not deployment.primary.is_in_cluster:
        return "one address for all slots: which nodes are behind it cannot be read"
    for server in deployment.primaries:
        yield from _slots_by(deployment, server)
    return f"all {SLOTS:,} slots have an owner"


def _slots_by(deployment: Deployment, server: Server) -> Check:
    """Yield what is wrong with slots by the view of one primary."""
    where, info = server.where, cluster_info(server)
    assigned, failing = int(info.get("cluster_slots_assigned", "0")), int(info.get("cluster_slots_fail", "0"))
    if assigned < SLOTS:
        yield error(
            f"{SLOTS - assigned:,} of {SLOTS:,} slots have no owner: checks of their keys have no answer from Redis",
            "redis-cli --cluster fix HOST:PORT  # of any node",
            None,
            where,
        )
    elif failing:
        yield error(
            f"the owner of {failing:,} slots is gone: checks of their keys have no answer from Redis",
            "start it again, or have a replica take over: redis-cli -h REPLICA CLUSTER FAILOVER FORCE",
            None,
            where,
        )
    elif info.get("cluster_state") != "ok":
        yield error(
            "it reports that the cluster is down: checks of its keys have no answer from Redis",
            f"{server.cli} CLUSTER INFO  # is it cut off from the others?",
            None,
            where,
        )
    if server.setting(FULL_COVERAGE) == "yes" and deployment.others:
        yield warning(
            f"{FULL_COVERAGE} is yes: when one slot has no owner, the keys of all others have no answer either",
            server.set_command(FULL_COVERAGE, "no"),
            None,
            where,
        )
    return ""


def owners_without_replica(deployment: Deployment) -> Check:
    """Yield each of several primaries that has no replica."""
    for server in deployment.primaries if deployment.others else ():
        if not int(server.info_or("connected_slaves", "0")):
            yield warning(
                "it has no replica: when it is gone, checks of its keys have no answer from Redis, and what it counted "
                "is lost with it",
                "add a replica: redis-cli --cluster add-node NEW:PORT HOST:PORT --cluster-slave",
                5,
                server.where,
            )
    return ""


def owners_clocks(deployment: Deployment) -> Check:
    """Yield each primary whose clock differs from that of the catalogue's node, and what that may cost."""
    for server in deployment.others:
        ahead_us = server.clock.ahead_us - deployment.primary.clock.ahead_us
        uncertain_us = (server.clock.took_us + deployment.primary.clock.took_us) // 2
        if abs(ahead_us) - uncertain_us > MAX_CLOCK_DIFFERENCE_US:
            yield warning(
                f"its clock is {abs(ahead_us) / MICROSECONDS:,.3f} s {'ahead of' if ahead_us > 0 else 'behind'} that "
                f"of {deployment.primary.where}: a key whose slot moves between them is admitted up to "
                f"{_most_admitted(deployment, abs(ahead_us)):,} requests more, or refills later by that time",
                "set the clock there by NTP: chronyc makestep",
                2,
                server.where,
            )
    return ""


def _most_admitted(deployment: Deployment, difference_us: int) -> int:
    """Return what a limit of the catalogue's plans admits beyond it when its clock steps forward."""
    throttles = _throttles(deployment)
    return max((min(each.burst, ceil(each.rate * difference_us / MICROSECONDS)) for each in throttles), default=0)


def _throttles(deployment: Deployment) -> Iterator[Throttle]:
    for plan in deployment.plans[0]:
        if plan.throttle is not None:
            yield plan.throttle
        for plan_stage in plan.stages:
            yield from plan_stage.throttles.values()


def shared_limits(deployment: Deployment) -> Check:
    """Whether prepaid units of shared limits arrive in time: where there are slots, a process requests them ahead."""
    if not deployment.has_slots:
        deployment.primary.info_or("cluster_enabled", "")  # whether they do may be unknown
        return "all limits are in one script"
    for name, figures in deployment.shared.items():
        if figures.late > _MAX_LATE_SHARE * figures.requests:
            yield warning(
                f"{figures.late:,} of {figures.requests:,} requests for units of {name} were answered too late: the "
                "units were not used, and checks may be denied though the limit has some",
                "look at `latency`, and at the load of this machine and of that node",
            )
    return "; ".join(map(_shared, deployment.shared.items())) or "this process has requested no units of shared limits"


def _shared(item: tuple[str, SharedFigures]) -> str:
    name, figures = item
    waits = f"{figures.waits:,} checks waited for {figures.requests:,} requests"
    return (
        f"{name}: {figures.demanded:,} units demanded, {figures.granted:,} granted, {figures.returned:,} returned, "
        f"{figures.held:,} held; {waits}"
    )


def cluster_info(server: Server) -> dict[str, str]:
    """Return the fields of CLUSTER INFO of a node."""
    return info_fields(as_text(server.answers.get("CLUSTER", "INFO")))
