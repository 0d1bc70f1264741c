"""The model: plans, stages, methods, keys and their limits. Immutable, and validated when created."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from fractions import Fraction
from typing import Any, Generic, Literal, Self, TypeVar, cast

from ratelimit import validation
from ratelimit.errors import ConfigError, OnUnavailable

Rate = int | float | str | Fraction | Decimal
"""Tokens per second, exact: a float means the decimal that it shows, a text may be a fraction such as "1/60"."""
Period = Literal["DAY", "WEEK", "MONTH"]
ThrottleScope = Literal["key", "key_method"]
Unlisted = Literal["limit", "deny"]

MICROSECONDS = 1_000_000


_V = TypeVar("_V")


class FrozenMap(Mapping[str, _V], Generic[_V]):
    """An immutable mapping, hashable and picklable."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, _V] | Iterable[tuple[str, _V]] = ()) -> None:
        self._items = dict(items)

    def __getitem__(self, key: str) -> _V:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return repr(self._items)


def _mapping(value: object, name: str) -> Mapping[object, object]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"must be a mapping of method names, not {validation.shown(value)}", field=name)
    return value


@dataclass(frozen=True, slots=True, init=False)
class Throttle:
    """A token bucket: it holds `burst` tokens, starts full and gains `rate` tokens per second.

    Attributes:
        rate: Tokens per second, an exact fraction. Given as int, float, str, Decimal or Fraction; a float means the
            decimal that it shows, so 0.1 is one tenth. 0 admits nothing.
        burst: Capacity in tokens, a whole number. 0 admits nothing.

    Raises:
        ConfigError: One of them is anything else, or their exact arithmetic would not fit below 2^53.
    """

    rate: Fraction
    burst: int

    def __init__(self, rate: Rate, burst: int) -> None:
        object.__setattr__(self, "rate", validation.rate(rate, "rate"))
        object.__setattr__(self, "burst", validation.whole(burst, "burst"))
        tokens, per_us = self.ratio
        if max(self.burst, 3) * per_us + tokens >= validation.EXACT:
            raise ConfigError(
                f"rate {validation.shown(rate)} with burst {burst} cannot be computed exactly below 2^53: "
                "give the rate fewer digits, or the bucket a smaller burst",
                field="rate",
            )

    @property
    def ratio(self) -> tuple[int, int]:
        """Tokens R and microseconds P in lowest terms: the bucket gains exactly R tokens every P microseconds."""
        per_microsecond = self.rate / MICROSECONDS
        return per_microsecond.numerator, per_microsecond.denominator


_OFFSETS = {"DAY": 1, "WEEK": 7, "MONTH": 28}


@dataclass(frozen=True, slots=True)
class Quota:
    """At most `limit` units per calendar period in UTC; the count starts anew with each period.

    Attributes:
        limit: Units per period, a whole number. 0 admits nothing.
        period: "DAY", "WEEK" or "MONTH".
        offset: Days by which the period starts later: 0 for DAY; 0 (Sunday) to 6 for WEEK; 0 (the 1st) to 27 for MONTH.

    Raises:
        ConfigError: One of them is anything else.
    """

    limit: int
    period: Period
    offset: int = 0

    def __post_init__(self) -> None:
        validation.whole(self.limit, "limit")
        period = validation.one_of(self.period, _OFFSETS, "period")
        try:
            validation.whole(self.offset, "offset", below=_OFFSETS[period])
        except ConfigError as error:
            raise ConfigError(f"{error.problem} (days, for the period {period})", field="offset") from None


@dataclass(frozen=True, slots=True)
class PlanStage:
    """A stage that a plan opens.

    Attributes:
        stage: "<api>/<stage>", such as "petstore/prod".
        throttles: By method ("GET /pets"), buckets that replace the plan's.

    Raises:
        ConfigError: The id, a method's name or a throttle is none.
    """

    stage: str
    throttles: Mapping[str, Throttle] = field(default_factory=FrozenMap)

    def __post_init__(self) -> None:
        validation.stage_id(self.stage, "stage")
        for method, throttle in _mapping(self.throttles, "throttles").items():
            validation.method_name(method, "throttles")
            if not isinstance(throttle, Throttle):
                raise ConfigError(
                    f"must be a Throttle, not {validation.shown(throttle)}", field=f'throttles."{method}"'
                )
        object.__setattr__(self, "throttles", FrozenMap(self.throttles))


def _is_a(value: object, kind: type, name: str) -> None:
    if value is not None and not isinstance(value, kind):
        raise ConfigError(f"must be a {kind.__name__} or None, not {validation.shown(value)}", field=name)


@dataclass(frozen=True, slots=True, init=False)
class UsagePlan:
    """What its keys may do: which stages they open, how fast and how much. Each key has its own bucket and count.

    Attributes:
        id: 1 to 128 letters, digits and . _ ~ -, a letter or digit first.
        throttle: The bucket of each key; None for no limit.
        quota: The quota of each key; None for no limit.
        stages: The stages that the plan opens; given as ids or `PlanStage`.
        name: For people.
        throttle_scope: "key" gives a key one bucket for all stages of the plan, "key_method" one for each configured
            method of each stage.
        alerts: Percentages of the quota, 1 to 100: reaching one is announced once per window and key on a stream.
        shadow: Id of a plan that is tried out: it sees what this plan admits, never denies, and counts what it would
            have denied. None for no trial.
        lease: Seconds, 0.001 to 1, for which a replica prepays units of a hot key, to spend in its process; 0 for none.
        max_identities: How many identities may have a state in Redis at a time, 0 to 2^30; exact up to 4096, beyond
            that counted by a sample. None for any number, which are not counted.
        on_unavailable: "local", "open" or "closed": what becomes of checks while Redis is away; see `Limiter`. None for
            what the limiter says. If the stage says something else, the stricter counts.

    Raises:
        ConfigError: One of them cannot be used.
    """

    id: str
    throttle: Throttle | None
    quota: Quota | None
    stages: tuple[PlanStage, ...]
    name: str
    throttle_scope: ThrottleScope
    alerts: tuple[int, ...]
    shadow: str | None
    lease: float
    max_identities: int | None
    on_unavailable: OnUnavailable | None

    def __init__(
        self,
        id: str,  # noqa: A002 - the contract's name
        throttle: Throttle | None = None,
        quota: Quota | None = None,
        stages: Iterable[PlanStage | str] = (),
        name: str = "",
        throttle_scope: ThrottleScope = "key",
        alerts: Iterable[int] = (),
        shadow: str | None = None,
        lease: float = 0,
        max_identities: int | None = None,
        on_unavailable: OnUnavailable | None = None,
    ) -> None:
        _is_a(throttle, Throttle, "throttle")
        _is_a(quota, Quota, "quota")
        plan_stages = _plan_stages(stages)
        if throttle is None and any(stage.throttles for stage in plan_stages):
            raise ConfigError("a plan with method throttles needs a throttle of its own: add one", field="throttle")
        for name_, value in (
            ("id", validation.identifier(id, "id")),
            ("throttle", throttle),
            ("quota", quota),
            ("stages", plan_stages),
            ("name", validation.label(name, "name")),
            ("throttle_scope", validation.one_of(throttle_scope, ("key", "key_method"), "throttle_scope")),
            ("alerts", validation.percentages(alerts, has_quota=quota is not None)),
            ("shadow", None if shadow is None else _other_plan(shadow, id)),
            ("lease", validation.lease(lease)),
            ("max_identities", validation.max_identities(max_identities)),
            ("on_unavailable", validation.on_unavailable(on_unavailable, or_none=True)),
        ):
            object.__setattr__(self, name_, value)

    def stage(self, stage_id: str) -> PlanStage | None:
        """Return the plan's entry for a stage, None if it does not open it."""
        return next((stage for stage in self.stages if stage.stage == stage_id), None)


def _other_plan(shadow: object, plan_id: str) -> str:
    if (other := validation.identifier(shadow, "shadow")) == plan_id:
        raise ConfigError("must be another plan: a plan is no shadow of itself", field="shadow")
    return other


def _plan_stages(stages: object) -> tuple[PlanStage, ...]:
    if isinstance(stages, str) or not isinstance(stages, Iterable):
        raise ConfigError(f"must be a list of stages, not {validation.shown(stages)}", field="stages")
    by_id: dict[str, PlanStage] = {}
    for item in stages:
        stage = item if isinstance(item, PlanStage) else PlanStage(validation.stage_id(item, "stages"))
        if stage.stage in by_id:
            raise ConfigError(f"lists {stage.stage!r} twice: merge the two entries", field="stages")
        by_id[stage.stage] = stage
    return tuple(by_id.values())


@dataclass(frozen=True, slots=True)
class Method:
    """A method of a stage.

    Attributes:
        throttle: A bucket that all its callers share, instead of one of the stage's size; None for the stage's.
        key_required: Whether it needs an API key. Without one, plan and quota do not apply.

    Raises:
        ConfigError: One of them is anything else.
    """

    throttle: Throttle | None = None
    key_required: bool = True

    def __post_init__(self) -> None:
        _is_a(self.throttle, Throttle, "throttle")
        validation.flag(self.key_required, "key_required")


@dataclass(frozen=True, slots=True)
class Stage:
    """A deployed stage, with buckets that all callers share.

    Each method that this stage or a plan lists has a bucket of its own; all methods that are not listed share one more.
    HEAD is GET, unless it is listed here.

    Attributes:
        id: "<api>/<stage>", such as "petstore/prod".
        throttle: The size of each of these buckets; None for no limit.
        methods: By method ("GET /pets"), what differs for it.
        unlisted: What happens to a method that neither this stage nor the key's plan lists: "limit", the limits of all
            such methods apply; "deny", it is denied with 403.
        on_unavailable: As of `UsagePlan`.

    Raises:
        ConfigError: The id, a method's name or a throttle is none, or `unlisted` is anything else.
    """

    id: str
    throttle: Throttle | None = None
    methods: Mapping[str, Method] = field(default_factory=FrozenMap)
    unlisted: Unlisted = "limit"
    on_unavailable: OnUnavailable | None = None

    def __post_init__(self) -> None:
        validation.stage_id(self.id, "id")
        validation.on_unavailable(self.on_unavailable, or_none=True)
        validation.one_of(self.unlisted, ("limit", "deny"), "unlisted")
        _is_a(self.throttle, Throttle, "throttle")
        for name, method in _mapping(self.methods, "methods").items():
            validation.method_name(name, "methods")
            if not isinstance(method, Method):
                raise ConfigError(f"must be a Method, not {validation.shown(method)}", field=f'methods."{name}"')
        object.__setattr__(self, "methods", FrozenMap(self.methods))


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller without a stored key: a user of a token that was verified, or an address.

    It has a bucket and a count of its own under a plan, as a key has, from its first admitted request until these are
    as good as new. Its repr does not show the subject, and Redis gets a digest of it.

    Attributes:
        subject: Who it is, 1 to 256 characters, such as "user:42". The same text under another plan counts apart.
        plan: Id of the plan whose limits it meets.

    Raises:
        ConfigError: The subject or the id cannot be used. It does not show the subject.
    """

    subject: str = field(repr=False)
    plan: str

    def __post_init__(self) -> None:
        validation.subject(self.subject, "subject")
        validation.identifier(self.plan, "plan")


Caller = str | Identity | None
"""Whose request it is: the value of an API key as it was sent, an identity, or nobody."""


@dataclass(frozen=True, slots=True)
class Replication:
    """How far a change of a key had reached the replicas of Redis when the call returned; see `Catalog`, `durable`.

    Attributes:
        acknowledged: How many replicas had acknowledged it within `durable_timeout`.
        replicas: How many were connected, in sync or not. One that is down, or cut off, is not among them.
        has_min_replicas: Whether the server refuses writes while fewer replicas are connected than its
            `min-replicas-to-write` says, which is at least 1.
    """

    acknowledged: int
    replicas: int
    has_min_replicas: bool

    @property
    def is_complete(self) -> bool:
        """Whether a replica was connected, and all that were have acknowledged the change."""
        return 0 < self.replicas <= self.acknowledged

    @property
    def is_safe(self) -> bool:
        """Whether it is complete and the server has `min-replicas-to-write`.

        Then no failover to any of these replicas undoes the change.
        """
        return self.is_complete and self.has_min_replicas


class _WithValue:
    """Holds a key's value outside of the dataclass fields, so that nothing that copies fields copies it."""

    __slots__ = ("_value",)
    _value: str | None


@dataclass(frozen=True, slots=True, init=False)
class ApiKey(_WithValue):
    """An API key, without its value: that is stored nowhere. `CreatedKey` has it.

    Attributes:
        id: 10 lower-case letters and digits.
        name: For people; need not be unique.
        enabled: Whether the key is accepted.
        plans: Ids of its plans: at most one that opens any given stage.
        created_at: Seconds since 1970 (UTC).
        expires_at: Seconds since 1970 (UTC), from which on the key is denied; None for never.
        description: For people; no decision depends on it.
        owner: For people and billing; no decision depends on it.
        tags: Texts by name, for people and billing; no decision depends on them.
        revision: Changes with every change of the key, and where keys lie in slots with every repair.
        replication: What became of this change with `durable=True`; None without, and for a key that was read.
    """

    id: str
    name: str
    enabled: bool
    plans: tuple[str, ...]
    created_at: float
    expires_at: float | None
    description: str
    owner: str
    tags: Mapping[str, str]
    revision: str = field(repr=False, compare=False)
    replication: Replication | None = field(repr=False, compare=False)

    def __init__(
        self,
        id: str,  # noqa: A002 - the contract's name
        name: str = "",
        enabled: bool = True,
        plans: tuple[str, ...] = (),
        created_at: float = 0.0,
        expires_at: float | None = None,
        description: str = "",
        owner: str = "",
        tags: Mapping[str, str] = FrozenMap(),
        value: str | None = None,
        revision: str = "",
        replication: Replication | None = None,
    ) -> None:
        object.__setattr__(self, "_value", value)
        values = (id, name, enabled, plans, created_at, expires_at, description, owner, tags, revision, replication)
        for name_, given in zip(self.__dataclass_fields__, values, strict=True):
            object.__setattr__(self, name_, given)

    def __eq__(self, other: object) -> bool:
        return self._fields() == other._fields() if isinstance(other, ApiKey) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._fields())

    def _fields(self) -> tuple[object, ...]:
        return tuple(getattr(self, each.name) for each in fields(self) if each.compare)

    @property
    def value(self) -> str | None:
        """What callers send: None, except in a `CreatedKey`."""
        return getattr(self, "_value", None)

    def with_replication(self, replication: Replication) -> Self:
        """Return the same key, with its value if it has one, and what became of its change."""
        attributes = {each.name: getattr(self, each.name) for each in fields(self)}
        return type(self)(**{**attributes, "replication": replication}, value=self.value)


class CreatedKey(ApiKey):
    """An API key as `create_key` and `rotate_key` return it: with its value, which is shown this once.

    It equals the `ApiKey` that is read later. No copy has the value: what `pickle`, `copy` and `dataclasses.replace`
    make is an `ApiKey`, and neither `asdict` nor `repr` shows it.
    """

    __slots__ = ()

    def __new__(cls, *args: Any, **keywords: Any) -> Self:
        """Return a new key; without a value, as `dataclasses.replace` calls this, an `ApiKey`."""
        if keywords.get("value") is None:
            return ApiKey(*args, **keywords)  # type: ignore[return-value]
        return super().__new__(cls)

    @property
    def value(self) -> str:
        """What callers send."""
        return cast("str", self._value)

    def __reduce__(self) -> tuple[type[ApiKey], tuple[object, ...]]:
        *values, revision, replication = (getattr(self, each.name) for each in fields(self))
        return ApiKey, (*values, None, revision, replication)  # None: the value
