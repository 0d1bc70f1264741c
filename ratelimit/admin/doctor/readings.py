"""What was read of a deployment. Whoever uses a reading that could not be had raises UnreadError."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ratelimit.admin.doctor.repair import RepairSummary
from ratelimit.admin.gateway_scripts import GATEWAY_SCRIPTS
from ratelimit.effects import info_fields
from ratelimit.engine.limits import IdentityBound
from ratelimit.errors import StoreError
from ratelimit.local.leased_bucket import SharedFigures
from ratelimit.model import UsagePlan
from ratelimit.registry import plan_documents
from ratelimit.registry.redis_keys import RedisKeys
from ratelimit.scripts import Command, load

_SUBCOMMANDS = {"ACL", "CLUSTER", "CONFIG", "SCRIPT", "SENTINEL", "SLOWLOG"}


def scripts_query() -> Command:
    """Return what asks whether a server knows the gateways' scripts."""
    return ("SCRIPT", "EXISTS", *(load(name).sha for name in GATEWAY_SCRIPTS))


class UnreadError(Exception):
    """Something could not be read: `message` says why, `mend` what to do about it."""

    def __init__(self, message: str, mend: str = "") -> None:
        super().__init__(message)
        self.message, self.mend = message, mend


def permission_of(command: Command) -> str:
    """Return what a user is granted to run a command: "+config|get"."""
    name = str(command[0]).lower()
    return f"+{name}|{str(command[1]).lower()}" if command[0] in _SUBCOMMANDS else f"+{name}"


def is_refused_permission(error: object) -> bool:
    """Return whether an error says that the user may not run a command, or not with these names."""
    return isinstance(error, StoreError) and "NOPERM" in str(error)


class Answers:
    """The replies of one server, by command. Errors are StoreError in the places of replies.

    Attributes:
        user: The user who reads; "" if that may not be known.
        names: What permits that user to read the names of the namespace, as words of ACL SETUSER.
    """

    def __init__(self, user: str, replies: Mapping[Command, Any] | None = None) -> None:
        self.user = user
        self.names: Sequence[str] = ()
        self._replies = dict(replies or {})

    def add(self, commands: Sequence[Command], replies: Sequence[Any]) -> None:
        """Add replies to these commands."""
        self._replies.update(zip(commands, replies, strict=True))

    def get(self, *command: str | bytes | float) -> Any:
        """Return the reply to a command.

        Raises:
            UnreadError: It was refused, or not sent as another one was.
        """
        reply = self._replies.get(command, StoreError("it was not asked"))
        if not isinstance(reply, Exception):
            return reply
        name = permission_of(command)[1:].replace("|", " ").upper()
        if not is_refused_permission(reply):
            hidden = "unknown" in str(reply)
            message = f"{name}: {reply}"
            raise UnreadError(message, "look it up in the console of the service, which hides this" if hidden else "")
        is_of_names = "key" in str(reply).lower() and "run the" not in str(reply)
        grants = self.names if is_of_names else [permission_of(command)]
        raise UnreadError(
            f"{name}: this user may not {'read that name' if is_of_names else 'run it'}",
            f"redis-cli ACL SETUSER {' '.join(map(shlex.quote, [self.user or 'USER', *grants]))}",
        )

    def has(self, *command: str | bytes | float) -> bool:
        """Return whether a command was answered without an error."""
        return command in self._replies and not isinstance(self._replies[command], Exception)

    def list_or_empty(self, *command: str | bytes | float) -> Sequence[Any]:
        """Return a reply that is a list; an empty one if there was none."""
        reply = self._replies.get(command)
        return reply if isinstance(reply, list) else ()


def as_text(reply: Any) -> str:
    """Return a reply as text, whatever it is: what a server says of itself need not be UTF-8."""
    return reply.decode("utf-8", "replace") if isinstance(reply, bytes) else str(reply)


def as_pairs(reply: Any) -> dict[str, Any]:
    """Return a flat list of names and values, or a map, as a dict; {} for anything else."""
    if isinstance(reply, Mapping):
        return {as_text(name): value for name, value in reply.items()}
    if not isinstance(reply, Sequence) or isinstance(reply, bytes | str):
        return {}
    return {as_text(name): value for name, value in zip(reply[::2], reply[1::2], strict=False)}


def as_texts(reply: Any) -> dict[str, str]:
    """Return a flat list of names and values, or a map, as a dict of texts; {} for anything else."""
    return {name: as_text(value) for name, value in as_pairs(reply).items()}


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """One question for the time: when it was sent and answered by this machine's clock, and what was answered."""

    sent_us: int
    server_us: int
    answered_us: int

    @property
    def took_us(self) -> int:
        """How long it took."""
        return self.answered_us - self.sent_us

    @property
    def ahead_us(self) -> int:
        """How far the server's clock is ahead of this machine's, give or take half of `took_us`."""
        return self.server_us - (self.sent_us + self.answered_us) // 2


@dataclass(frozen=True)
class Server:
    """A primary or a replica.

    Attributes:
        where: "primary", or "replica" with its address.
        cli: How `redis-cli` is called for it.
        answers: Its replies.
        round_trips: Reads of its time.
        scripts: Of a primary, whether it has each of the gateways' scripts, by name; none if this may not be read.
        permissions: Of a primary and commands, "" if the gateways' user may run it there, else the server's message;
            none if that could not be read.
    """

    where: str
    cli: str
    answers: Answers
    round_trips: tuple[RoundTrip, ...] = ()
    scripts: Mapping[str, bool] = field(default_factory=dict)
    permissions: Mapping[Command, str] = field(default_factory=dict)

    @cached_property
    def _info(self) -> dict[str, str]:
        return info_fields(as_text(self.answers.get("INFO", "all")))

    def info(self, name: str) -> str:
        """Return a field of INFO; raise UnreadError if there is none."""
        if name not in self._info:
            raise UnreadError(f"INFO lacks '{name}'")
        return self._info[name]

    def info_or(self, name: str, default: str) -> str:
        """Return a field of INFO that some servers lack."""
        return self._info.get(name, default)

    def number(self, name: str) -> int:
        """Return a field of INFO that is a whole number."""
        return _whole(name, self.info(name))

    def setting(self, name: str) -> str:
        """Return what CONFIG GET says; raise UnreadError if it says nothing."""
        pairs = as_pairs(self.answers.get("CONFIG", "GET", name))
        if name not in pairs:
            raise UnreadError(f"CONFIG GET says nothing of '{name}'")
        return as_text(pairs[name])

    def number_set(self, name: str) -> int:
        """Return a setting that is a whole number."""
        return _whole(name, self.setting(name))

    def set_command(self, name: str, value: object) -> str:
        """Return the command that changes a setting."""
        return f"{self.cli} CONFIG SET {name} {value}"

    @property
    def version(self) -> tuple[int, ...]:
        """The numbers of the version: of Valkey its own, not that of the Redis that it stands for."""
        name = self.info_or("valkey_version", "") or self.info("redis_version")
        numbers = re.findall(r"\d+", name)
        if not numbers:
            raise UnreadError("INFO names no version")
        return tuple(map(int, numbers[:3]))

    @property
    def product(self) -> str:
        """The name with the version: "Valkey 8.1.1"."""
        name = "Valkey" if self.info_or("valkey_version", "") else "Redis"
        return f"{name} {'.'.join(map(str, self.version))}"

    @property
    def run_id(self) -> str:
        """An id that no other server has; "" if it may not be read."""
        return self.info_or("run_id", "") if self.answers.has("INFO", "all") else ""

    @property
    def is_in_cluster(self) -> bool:
        """Whether it is a node of a cluster, by its own report."""
        return self.answers.has("INFO", "all") and self.info_or("cluster_enabled", "0") == "1"

    @property
    def has_selectors(self) -> bool:
        """Whether ACL SETUSER takes selectors, and %R~ for reading, as since Redis 7; True if unknown."""
        try:
            return self.version >= (7,)
        except UnreadError:
            return True

    @property
    def clock(self) -> RoundTrip:
        """The quickest question for the time."""
        if not self.round_trips:
            self.answers.get("TIME")
            raise UnreadError("TIME: no answer")
        return min(self.round_trips, key=lambda trip: trip.took_us)

    def connected_replicas(self) -> Iterator[dict[str, str]]:
        """Yield the fields of each replica that is connected: ip, port, state, offset, lag."""
        for name, value in self._info.items():
            if re.fullmatch(r"slave\d+", name):
                yield dict(part.partition("=")[::2] for part in value.split(","))


def _whole(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UnreadError(f"'{name}' is no whole number") from None


@dataclass(frozen=True)
class Sentinel:
    """A Sentinel that the client names.

    Attributes:
        where: "Sentinel" with its address.
        service: The name by which it knows the primary.
        answers: Its replies.
        round_trip: Around its INFO, which holds its time; None if it did not answer.
    """

    where: str
    service: str
    answers: Answers
    round_trip: tuple[int, int] | None = None

    @property
    def state(self) -> dict[str, str]:
        """What it knows of the primary."""
        return as_texts(self.answers.get("SENTINEL", "MASTER", self.service))

    def number(self, name: str) -> int:
        """Return a part of its state that is a whole number."""
        if name not in (state := self.state):
            raise UnreadError(f"SENTINEL MASTER lacks '{name}'")
        return _whole(name, state[name])


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """How the client that was passed in is set.

    Attributes:
        retries: How often it repeats a command that failed, by itself.
        user: Its user at the server; "" for one that is only known when it connects.
        service: The name by which its Sentinels know the primary; None without Sentinels.
        sentinels: Their addresses.
    """

    retries: int
    user: str = "default"
    service: str | None = None
    sentinels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sample:
    """What was looked at of keys and identities: some of them, as there may be millions.

    Attributes:
        key_ids: Ids of API keys, the newest.
        identity_plans: Plans under which identities were charged.
    """

    key_ids: tuple[str, ...] = ()
    identity_plans: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Deployment:
    """Everything that was read.

    Attributes:
        names: The names in Redis.
        probes: The check values of this process's peppers, the newest first.
        has_own_clock: Whether an injected clock replaces the server's.
        primary: The server that the client leads to; on a cluster, the primary of the catalogue.
        others: The further primaries of a cluster.
        has_slots: Whether one script may only touch keys of one slot.
        has_cluster_client: Whether the client is of a cluster.
        sample: Of its keys and identities.
        gateway_user: The user whose permissions these are; "" for one whose name may not be known.
        is_gateway_named: Whether that user was named, or is just the one who reads.
        client: The client's settings.
        deadline_us: How long checks wait for Redis.
        replicas: Those that could be read.
        sentinels: Those that the client names.
        unreachable: Servers that could not be read, and why.
        repair: What was repaired before; None if nothing was to be.
        shared: What this process did about limits that all callers share, by their names in Redis.
    """

    names: RedisKeys
    probes: Sequence[str]
    has_own_clock: bool
    primary: Server
    sample: Sample
    gateway_user: str
    is_gateway_named: bool
    client: ClientSettings
    deadline_us: int
    replicas: tuple[Server, ...] = ()
    sentinels: tuple[Sentinel, ...] = ()
    unreachable: Mapping[str, str] = field(default_factory=dict)
    others: tuple[Server, ...] = ()
    has_slots: bool = False
    has_cluster_client: bool = False
    repair: RepairSummary | None = None
    shared: Mapping[str, SharedFigures] = field(default_factory=dict)

    @cached_property
    def catalog(self) -> dict[str, str]:
        """The fields of the catalogue; {} if there is none."""
        return as_texts(self.primary.answers.get("HGETALL", self.names.catalog))

    @cached_property
    def plans(self) -> tuple[list[UsagePlan], list[str]]:
        """The plans of the catalogue, and the ids of those that cannot be read."""
        return read_plans(self.catalog)

    @property
    def primaries(self) -> tuple[Server, ...]:
        """The one primary; of a cluster all of them, that of the catalogue first."""
        return (self.primary, *self.others)

    @property
    def servers(self) -> tuple[Server, ...]:
        """The primaries, then their replicas."""
        return (*self.primaries, *self.replicas)


def read_plans(catalog: Mapping[str, str]) -> tuple[list[UsagePlan], list[str]]:
    """Return the plans in the fields of a catalogue, and the ids of those that cannot be read."""
    plans, unreadable = list[UsagePlan](), list[str]()
    for field_, text in catalog.items():
        kind, _, plan_id = field_.partition(":")
        if kind == "plan":
            try:
                plans.append(plan_documents.plan_from_json(plan_id, text))
            except (ValueError, RecursionError):
                unreadable.append(plan_id)
    return plans, unreadable


def identity_bounds(plans: Sequence[UsagePlan], names: RedisKeys) -> dict[str, IdentityBound]:
    """Return the bound of each plan that has one, by its id."""
    return {plan.id: bound for plan in plans if (bound := IdentityBound.of(plan, names)) is not None}


def count_of(bound: IdentityBound) -> Command:
    """Return what asks how many identities a plan has."""
    return ("ZCARD", bound.redis_key)


def cli_at(host: str, port: str) -> str:
    """Return how `redis-cli` is called for a server, whose address another one named."""
    return f"redis-cli -h {shlex.quote(host)} -p {shlex.quote(port)}"
