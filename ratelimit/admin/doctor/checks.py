"""All checks, in one table; and what runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

from ratelimit.admin.doctor import data_checks, deployment_checks, server_checks, slot_checks
from ratelimit.admin.doctor.problem import Check
from ratelimit.admin.doctor.readings import Deployment, Server, UnreadError
from ratelimit.admin.doctor.report import DoctorReport, Finding, sorted_report


class ServerCheck(NamedTuple):
    """A check of each server."""

    name: str
    run: Callable[[Server], Check]


class DeploymentCheck(NamedTuple):
    """A check of the whole; `where` is what it is about."""

    name: str
    run: Callable[[Deployment], Check]
    where: str = "primary"


CHECKS: tuple[ServerCheck | DeploymentCheck, ...] = (
    DeploymentCheck("topology", deployment_checks.topology),
    DeploymentCheck("slots", slot_checks.slots),
    ServerCheck("loading", server_checks.loading),
    ServerCheck("version", server_checks.version),
    ServerCheck("eviction", server_checks.eviction),
    ServerCheck("memory", server_checks.memory),
    ServerCheck("persistence", server_checks.persistence),
    ServerCheck("appendfsync", server_checks.appendfsync),
    ServerCheck("last-write", server_checks.last_write),
    ServerCheck("min-replicas", server_checks.min_replicas),
    DeploymentCheck("replicas", deployment_checks.replicas, "replicas"),
    DeploymentCheck("sentinels", deployment_checks.sentinels, "Sentinels"),
    DeploymentCheck("clocks", deployment_checks.clocks),
    DeploymentCheck("permissions", deployment_checks.needed_permissions),
    DeploymentCheck("excess-permissions", deployment_checks.excess_permissions),
    DeploymentCheck("default-user", deployment_checks.default_user),
    DeploymentCheck("scripts", deployment_checks.scripts),
    ServerCheck("script-flushes", server_checks.script_flushes),
    DeploymentCheck("client-retries", deployment_checks.client_retries, "client"),
    DeploymentCheck("latency", deployment_checks.latency),
    DeploymentCheck("slow-commands", deployment_checks.slow_commands),
    ServerCheck("max-clients", server_checks.max_clients),
    ServerCheck("idle-connections", server_checks.idle_connections),
    DeploymentCheck("schema", data_checks.schema, "data"),
    DeploymentCheck("catalogue", data_checks.catalogue, "data"),
    DeploymentCheck("keys", data_checks.keys, "data"),
    DeploymentCheck("pepper", data_checks.pepper, "data"),
    DeploymentCheck("unfinished", data_checks.unfinished, "data"),
    DeploymentCheck("identities", data_checks.identities, "data"),
    DeploymentCheck("shared-limits", slot_checks.shared_limits, "client"),
    DeploymentCheck("gateways", data_checks.gateways, "data"),
)
"""In the order in which findings of one severity are listed."""

NAMES = tuple(check.name for check in CHECKS)


def examine(deployment: Deployment) -> DoctorReport:
    """Return what all checks say of a deployment."""
    findings = list[Finding]()
    for check in CHECKS:
        if isinstance(check, ServerCheck):
            for server in deployment.servers:
                findings += _findings(check.name, server.where, check.run(server))
        else:
            findings += _findings(check.name, check.where, check.run(deployment))
        if check.name == "replicas":
            for where, problem in deployment.unreachable.items():
                findings.append(_unreachable(where, problem))
    return replace(sorted_report(findings), repair=deployment.repair)


def _findings(name: str, where: str, check: Check) -> Iterator[Finding]:
    is_well = True
    while True:
        try:
            problem = next(check)
        except StopIteration as end:
            if is_well:
                yield Finding(name, "ok", where, end.value)
            return
        except UnreadError as unread:
            yield Finding(name, "unknown", where, f"not readable: {unread.message}", unread.mend)
            return
        except (ValueError, TypeError, LookupError, AttributeError):  # whatever a server answers
            yield Finding(name, "unknown", where, "not readable: the server answered in another form than servers do")
            return
        is_well = False
        yield Finding(name, problem.severity, problem.where or where, problem.message, problem.mend, problem.promise)


def _unreachable(where: str, problem: str) -> Finding:
    is_sentinel = where.startswith("Sentinel")
    if is_sentinel:
        mend = "start it, or name those that there are in the URL"
        return Finding("sentinels", "warning", where, f"it does not answer: {problem}", mend)
    if where.startswith("primary"):
        what = f"it does not answer, so checks of its keys have no answer from Redis either: {problem}"
        mend = (
            "start it, or have a replica take over (redis-cli -h REPLICA CLUSTER FAILOVER FORCE); if it refuses the "
            "user, create the user on that node"
        )
        return Finding("slots", "error", where, what, mend)
    mend = "run `ratelimit doctor` on a machine that reaches it, with --url naming it"
    return Finding("replicas", "unknown", where, f"it could not be read: {problem}", mend)
