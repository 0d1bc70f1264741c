"""Reads a deployment: everything that the checks look at, and nothing that would change it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ratelimit import validation
from ratelimit.admin.doctor import permissions
from ratelimit.admin.doctor.checks import examine
from ratelimit.admin.doctor.readings import (
    Answers,
    ClientSettings,
    Deployment,
    RoundTrip,
    Sample,
    Sentinel,
    Server,
    as_text,
    as_texts,
    cli_at,
    count_of,
    identity_bounds,
    is_refused_permission,
    read_plans,
    scripts_query,
)
from ratelimit.admin.doctor.repair import repair_all
from ratelimit.admin.doctor.report import DoctorReport
from ratelimit.admin.doctor.slot_checks import FULL_COVERAGE
from ratelimit.admin.gateway_scripts import GATEWAY_SCRIPTS
from ratelimit.effects import (
    IndependentAtNode,
    IndependentCommands,
    IndependentReads,
    Operation,
    Primaries,
    UnknownScriptError,
    info_fields,
    no_owner_of_slots,
    time_us,
)
from ratelimit.errors import ConfigError, StoreError
from ratelimit.local.leased_bucket import SharedFigures
from ratelimit.model import MICROSECONDS, FrozenMap
from ratelimit.registry.namespace import Clock, Namespace
from ratelimit.scripts import Command, load
from ratelimit.validation import shown

SLOW = 128
SETTINGS = (
    *("maxmemory-policy", "appendfsync", "save", "stop-writes-on-bgsave-error"),
    *("min-replicas-to-write", "min-replicas-max-lag", "timeout", "tcp-keepalive"),
)
SERVER_READS: tuple[Command, ...] = (("TIME",), ("INFO", "all"), *(("CONFIG", "GET", name) for name in SETTINGS))
CLUSTER_READS: tuple[Command, ...] = (("CLUSTER", "INFO"), ("CONFIG", "GET", FULL_COVERAGE))
_NODE_READS: tuple[Command, ...] = (
    *SERVER_READS[1:],
    ("ACL", "WHOAMI"),
    ("ACL", "GETUSER", "default"),
    ("SLOWLOG", "GET", SLOW),
)
_ROUND_TRIPS = 50
_NONE = FrozenMap[SharedFigures]()
SAMPLED_KEYS = 100
_SAMPLED_IDENTITIES = 100
_SCANS, _NAMES_PER_SCAN = 10, 1000


class Peer(NamedTuple):
    """A server beside the primary, to be read on a connection of its own.

    Attributes:
        where: How findings name it.
        address: Of a replica: host and port; of a Sentinel its number among those that the client names.
        commands: What to send.
    """

    where: str
    address: tuple[str, int] | int
    commands: tuple[Command, ...]


@dataclass(frozen=True, slots=True)
class PeerReply:
    """The replies of a peer.

    Attributes:
        replies: With StoreError in the places of errors.
        sent_us: When the first command was sent, by this machine's clock.
        answered_us: When the first reply had arrived.
    """

    replies: Sequence[Any]
    sent_us: int
    answered_us: int


def wall_us() -> int:
    """Return microseconds since 1970 by this machine's clock."""
    return time.time_ns() // 1000


class Doctor:
    """Reads one deployment.

    Args:
        namespace: Whose names to read.
        client: How the client is set.
        gateway_user: The Redis user of the gateways; None for the one who reads.
        deadline: How long checks of the gateways wait for Redis, in seconds.
        clock: This machine's clock.
        repair: Whether to finish or undo unfinished changes of keys first.
        shared: What the limiter of this process did about limits that all callers share, by their names in Redis.
    """

    def __init__(
        self,
        namespace: Namespace,
        client: ClientSettings,
        *,
        gateway_user: str | None,
        deadline: float,
        clock: Clock = wall_us,
        repair: bool = False,
        shared: Mapping[str, SharedFigures] = _NONE,
    ) -> None:
        if gateway_user is not None and (not isinstance(gateway_user, str) or not gateway_user.isprintable()):
            raise ConfigError(f"must be the name of a Redis user, not {shown(gateway_user)}", field="gateway_user")
        self._namespace, self._names = namespace, namespace.names
        self._client = client
        self._gateway_user = gateway_user
        self._deadline_us = round(deadline * MICROSECONDS)
        self._clock = clock
        self._shared = shared
        self._repairs = validation.flag(repair, "repair")

    def read(self) -> Operation[Deployment]:
        """Read the primary, of a cluster all of them.

        Raises:
            StoreError: It did not answer; on a cluster, none did. What it refuses is no error: the checks that need
                it report that.
        """
        repair = (yield from repair_all(self._namespace)) if self._repairs else None
        yield from self._namespace.find_slots()
        nodes: Sequence[str] = yield Primaries()
        if not nodes:
            raise no_owner_of_slots()
        primaries, unreachable = list[Server](), dict[str, str]()
        for node in nodes:
            try:
                primaries.append((yield from self._primary(node)))
            except StoreError as error:
                if len(unreachable) == len(nodes) - 1:  # none answers
                    raise
                unreachable[f"primary {node}"] = str(error)
        if len(nodes) > 1:
            primaries = yield from self._catalogue_first(primaries)
        primary, *others = primaries
        answers = primary.answers
        yield from _read_into(answers, self._data_reads())
        sample = yield from self._sample(answers)
        return Deployment(
            names=self._names,
            probes=self._namespace.digest.probes,
            has_own_clock=self._namespace.clock is not None,
            primary=primary,
            others=tuple(others),
            unreachable=unreachable,
            has_slots=self._namespace.has_slots,
            has_cluster_client=nodes[0] != "",
            sample=sample,
            gateway_user=self._gateway_user or answers.user,
            is_gateway_named=self._gateway_user is not None,
            client=self._client,
            deadline_us=self._deadline_us,
            repair=repair,
            shared=self._shared,
        )

    def _primary(self, node: str) -> Operation[Server]:
        """Read a primary; `node` is "" for the only one."""
        answers = Answers(self._client.user)
        round_trips = yield from self._round_trips(node, answers)
        yield from self._read_at(node, answers, _NODE_READS)
        if answers.has("ACL", "WHOAMI"):
            answers.user = as_text(answers.get("ACL", "WHOAMI"))
        where, cli = "primary", "redis-cli"
        if node:
            host, _, port = node.rpartition(":")
            where, cli = f"primary {node}", cli_at(host, port)
        server = Server(where, cli, answers, round_trips)
        if server.is_in_cluster:
            yield from self._read_at(node, answers, CLUSTER_READS)
        reading = "%R~" if server.has_selectors else "~"
        answers.names = f"{reading}{self._names.namespace}:*", f"{reading}{{{self._names.namespace}}}:*"
        scripts = yield from self._scripts(node, answers)
        granted = yield from self._permissions(node, answers)
        return replace(server, scripts=scripts, permissions=granted)

    def _catalogue_first(self, primaries: list[Server]) -> Operation[list[Server]]:
        """Return the primaries of a cluster, that of the catalogue first: what has no key goes there."""
        (reply,) = yield IndependentReads([("INFO", "server")])
        run_id = info_fields(as_text(reply)).get("run_id", "")
        return sorted(primaries, key=lambda server: not run_id or server.run_id != run_id)

    def _read_at(self, node: str, answers: Answers, commands: Sequence[Command]) -> Operation[list[Any]]:
        """Send commands to a primary; return its replies, with StoreError in the places of errors."""
        replies: list[Any] = yield IndependentAtNode(node, commands) if node else IndependentReads(commands)
        answers.add(commands, replies)
        return replies

    def peers(self, deployment: Deployment) -> list[Peer]:
        """Return the servers to read beside the primary: its replicas, and the Sentinels."""
        peers = list[Peer]()
        for primary in deployment.primaries:
            for replica in primary.connected_replicas() if primary.answers.has("INFO", "all") else ():
                host, port = replica.get("ip", ""), replica.get("port", "")
                if host and port.isdigit():
                    peers.append(
                        Peer(f"replica {_address(host, port)}", (host, int(port)), (*SERVER_READS, scripts_query()))
                    )
        service = self._client.service or ""
        for number, address in enumerate(self._client.sentinels):
            peers.append(Peer(f"Sentinel {address}", number, _sentinel_reads(service)))
        return peers

    def report(self, deployment: Deployment, replies: Mapping[Peer, PeerReply | StoreError]) -> DoctorReport:
        """Return what is wrong with a deployment, by what was read of it and its peers."""
        replicas, sentinels, unreachable = list[Server](), list[Sentinel](), dict(deployment.unreachable)
        for peer, reply in replies.items():
            if isinstance(reply, StoreError):
                unreachable[peer.where] = str(reply)
                continue
            answers = Answers(deployment.primary.answers.user, dict(zip(peer.commands, reply.replies, strict=True)))
            if isinstance(peer.address, int):
                interval = reply.sent_us, reply.answered_us
                sentinels.append(Sentinel(peer.where, self._client.service or "", answers, interval))
            else:
                host, port = peer.address
                trips = _round_trip(reply.sent_us, reply.replies[0], reply.answered_us)
                replicas.append(Server(peer.where, cli_at(host, str(port)), answers, trips))
        return examine(
            replace(deployment, replicas=tuple(replicas), sentinels=tuple(sentinels), unreachable=unreachable)
        )

    def _round_trips(self, node: str, answers: Answers) -> Operation[tuple[RoundTrip, ...]]:
        trips: tuple[RoundTrip, ...] = ()
        for _ in range(_ROUND_TRIPS + 1):
            began_us, ticks = self._clock(), time.monotonic_ns()
            replies = yield from self._read_at(node, answers, [("TIME",)])
            ended_us = began_us + (time.monotonic_ns() - ticks) // 1000
            trips += _round_trip(began_us, replies[0], ended_us)
            if not trips:
                break
        return trips[1:] or trips  # the first one includes connecting

    def _data_reads(self) -> list[Command]:
        names = self._names
        return [
            ("HGETALL", names.catalog),
            ("HMGET", names.former_catalog, "epoch"),
            ("ZCARD", names.keys),
            ("ZREVRANGEBYSCORE", names.keys, "+inf", "-inf", "LIMIT", 0, SAMPLED_KEYS),
            ("ZREVRANGEBYSCORE", names.replicas, "+inf", "-inf", "WITHSCORES"),
            *([("HLEN", names.intents)] if self._namespace.has_slots else []),
        ]

    def _scripts(self, node: str, answers: Answers) -> Operation[dict[str, bool]]:
        (reply,) = yield from self._read_at(node, answers, [scripts_query()])
        if isinstance(reply, list) and len(reply) == len(GATEWAY_SCRIPTS):
            return {name: bool(flag) for name, flag in zip(GATEWAY_SCRIPTS, reply, strict=True)}
        # Without KEYS they do nothing, and their error shows that they are there.
        replies = yield from self._read_at(node, answers, [("EVALSHA", load(name).sha, 0) for name in GATEWAY_SCRIPTS])
        if any(map(is_refused_permission, replies)):
            return {}
        return {
            name: not isinstance(each, UnknownScriptError) for name, each in zip(GATEWAY_SCRIPTS, replies, strict=True)
        }

    def _permissions(self, node: str, answers: Answers) -> Operation[dict[Command, str]]:
        """Return for each command "" if the gateways' user may run it, else the server's message.

        By ACL DRYRUN; and of the user who reads, where the server has no DRYRUN, by trying.
        """
        reader = answers.user
        user = self._gateway_user or reader
        needed = [*(need.command for need in permissions.needed(self._names)), permissions.EVAL]
        commands = [*needed, *permissions.excessive(self._names).values()]
        replies = yield from self._read_at(node, answers, [("ACL", "DRYRUN", user, *command) for command in commands])
        answers.add([("ACL", "DRYRUN")], replies[:1])
        if not isinstance(replies[0], Exception):
            texts = map(as_text, replies)
            return {command: "" if reply == "OK" else reply for command, reply in zip(commands, texts, strict=True)}
        yield from self._read_at(node, answers, [("ACL", "GETUSER", user)])
        if user != reader:
            return {}
        tried = list(filter(permissions.can_be_tried, needed))
        replies = yield IndependentCommands(tried)
        return {
            command: str(reply) if is_refused_permission(reply) else ""
            for command, reply in zip(tried, replies, strict=True)
        }

    def _sample(self, answers: Answers) -> Operation[Sample]:
        listing: Command = ("ZREVRANGEBYSCORE", self._names.keys, "+inf", "-inf", "LIMIT", 0, SAMPLED_KEYS)
        key_ids = tuple(map(as_text, answers.list_or_empty(*listing)))
        if key_ids:
            yield from _read_into(answers, [("MGET", self._names.key_record(key_id)) for key_id in key_ids])
            yield from _read_into(answers, [("HGET", self._names.key_hash(key_id), "r") for key_id in key_ids])
        if answers.has("HGETALL", self._names.catalog):
            catalogued, _ = read_plans(as_texts(answers.get("HGETALL", self._names.catalog)))
            bounds = identity_bounds(catalogued, self._names)
            yield from _read_into(answers, list(map(count_of, bounds.values())))
        identities = yield from self._identities(answers)
        replies = yield IndependentReads([("HKEYS", name) for name in identities])
        answers.add([("HKEYS",)], [next(filter(_is_error, replies), "OK")])
        fields = [as_text(field) for reply in replies if isinstance(reply, list) for field in reply]
        plans = frozenset(field.removeprefix("p:") for field in fields if field.startswith("p:"))
        return Sample(key_ids, plans)

    def _identities(self, answers: Answers) -> Operation[list[str]]:
        """Return names of identities' hashes, out of the first names of the server."""
        names, cursor = dict[str, None](), "0"
        for _ in range(_SCANS):
            scan: Command = ("SCAN", cursor, "MATCH", self._names.key_hash("~*"), "COUNT", _NAMES_PER_SCAN)
            (reply,) = yield IndependentReads([scan])
            answers.add([("SCAN",)], [reply])
            try:
                cursor, page = as_text(reply[0]), list(map(as_text, reply[1]))
            except (TypeError, LookupError):  # an error, or no page
                return []
            names |= dict.fromkeys(page)
            if cursor == "0" or len(names) >= _SAMPLED_IDENTITIES:
                break
        return list(names)[:_SAMPLED_IDENTITIES]


def _read_into(answers: Answers, commands: Sequence[Command]) -> Operation[None]:
    answers.add(commands, (yield IndependentReads(commands)))


def _is_error(reply: Any) -> bool:
    return isinstance(reply, Exception)


def _round_trip(sent_us: int, reply: Any, answered_us: int) -> tuple[RoundTrip, ...]:
    try:
        return (RoundTrip(sent_us, time_us(reply), answered_us),)
    except (TypeError, ValueError):  # an error, or no time
        return ()


def _sentinel_reads(service: str) -> tuple[Command, ...]:
    return ("INFO", "server"), ("SENTINEL", "MASTER", service), ("SENTINEL", "CKQUORUM", service)


def _address(host: str, port: str) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
