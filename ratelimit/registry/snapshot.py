"""The catalogue's snapshot: one version of all plans, stages and the account throttle."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeVar

from ratelimit.errors import OnUnavailable
from ratelimit.model import FrozenMap, Method, Stage, Throttle, UsagePlan
from ratelimit.registry.lazy_documents import DocumentSummary, LazyDocuments
from ratelimit.registry.redis_keys import OTHERS
from ratelimit.registry.schema import SCHEMA, SCHEMA_WITH_DENIALS

_T = TypeVar("_T")
_UNLISTED_METHOD = Method()
_STRICTNESS: tuple[OnUnavailable, ...] = ("open", "local", "closed")
_NO_METHODS: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class CatalogSnapshot:
    """Immutable: another version of the catalogue is another snapshot. `epoch` is empty where no catalogue exists.

    Attributes:
        epoch: 8 random characters, given when the catalogue was created.
        version: Counts the changes of the catalogue.
        plans: All plans by id.
        stages: All configured stages by id.
        account: The throttle that all callers share; None for no limit.
        stamp: Random, given with each version: distinguishes two changes that got one version number.
        schema: The schema that Redis says it has.
        methods_by_stage: Of each stage that is configured somewhere, the methods that have buckets of their own in it.
        bucket_methods: Of each stage, by the text that a caller may pass, the method whose limits apply: as
            `bucket_method`, for whom a call for each check is too much. Any other text is one of all others, "*".
        leased: Ids of the plans that have leases.
        denying: Ids of the stages that deny methods that are not listed.
    """

    epoch: str = ""
    version: int = 0
    plans: Mapping[str, UsagePlan] = field(default_factory=FrozenMap)
    stages: Mapping[str, Stage] = field(default_factory=FrozenMap)
    account: Throttle | None = None
    stamp: str = ""
    schema: int = SCHEMA
    methods_by_stage: Mapping[str, frozenset[str]] = field(init=False, repr=False, compare=False)
    bucket_methods: Mapping[str, Mapping[str, str]] = field(init=False, repr=False, compare=False)
    leased: frozenset[str] = field(init=False, repr=False, compare=False)
    denying: frozenset[str] = field(init=False, repr=False, compare=False)
    _plan_summaries: Mapping[str, DocumentSummary] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        summaries = _summaries(self.plans, DocumentSummary.of_plan)
        of_stages = _summaries(self.stages, DocumentSummary.of_stage)
        listed: dict[str, set[str]] = {}
        for summary in chain(of_stages.values(), summaries.values()):
            for stage, methods in summary.listed.items():
                listed.setdefault(stage, set()).update(methods)
        object.__setattr__(self, "_plan_summaries", summaries)
        object.__setattr__(self, "methods_by_stage", {stage: frozenset(methods) for stage, methods in listed.items()})
        object.__setattr__(self, "bucket_methods", _BucketMethods(self.methods_by_stage))
        object.__setattr__(self, "leased", frozenset(plan for plan, summary in summaries.items() if summary.leases))
        object.__setattr__(self, "denying", frozenset(stage for stage, summary in of_stages.items() if summary.denies))

    @property
    def version_key(self) -> tuple[str, str, str]:
        """Epoch, version and stamp: a version that a server lost may be given again, to something else."""
        return self.epoch, str(self.version), self.stamp

    @property
    def version_token(self) -> str:
        """Epoch and version as the script compares them: 8 characters and 10 digits."""
        return f"{self.epoch:8}{self.version:010}"

    @property
    def required_schema(self) -> int:
        """The schema that a catalogue with these stages has to have."""
        return SCHEMA_WITH_DENIALS if self.denying else SCHEMA

    def method(self, stage_id: str, method: str) -> Method:
        """Return what a stage's configuration says of a method; one that it does not list needs a key."""
        if stage_id not in self.stages:  # a look-up that raises KeyError would cost more
            return _UNLISTED_METHOD
        methods = self.stages[stage_id].methods
        return methods.get(_resolved(method, methods), _UNLISTED_METHOD)

    def listed_methods(self, stage_id: str) -> frozenset[str]:
        """Return the methods that have buckets of their own in a stage."""
        return self.methods_by_stage.get(stage_id, frozenset())

    def bucket_method(self, stage_id: str, method: str) -> str:
        """Return the method whose limits apply: itself if it is listed, else "*", which stands for all others.

        A HEAD that nobody lists is GET. One that is listed is GET for those that do not list it themselves: see
        `stage_method` and `plan_method`.
        """
        return self.bucket_methods[stage_id].get(method, OTHERS)

    def stage_method(self, stage_id: str, method: str) -> str:
        """Return the method whose bucket of the stage applies: of HEAD that of GET, unless the stage lists HEAD."""
        listed: Container[str] = self.stages[stage_id].methods if stage_id in self.stages else ()
        return self.bucket_method(stage_id, _resolved(method, listed))

    def plan_method(self, plan: UsagePlan, stage_id: str, method: str) -> str:
        """Return the method whose bucket of a plan applies: of HEAD that of GET, unless the plan lists HEAD."""
        return self.bucket_method(stage_id, _resolved(method, _listed_by(plan, stage_id)))

    def bucket_stage(self, stage_id: str) -> str:
        """Return the stage whose limits apply: itself if it is configured, else "*"."""
        return stage_id if stage_id in self.methods_by_stage else OTHERS

    def stage_throttle(self, stage_id: str, method: str) -> Throttle | None:
        """Return the throttle that all callers of a method share: the method's own, else the stage's."""
        if stage_id not in self.stages:
            return None
        return self.method(stage_id, method).throttle or self.stages[stage_id].throttle

    def opens(self, plan_id: str, stage_id: str) -> bool:
        """Return whether a plan opens a stage."""
        return plan_id in self._plan_summaries and stage_id in self._plan_summaries[plan_id].listed

    def denies(self, plan: UsagePlan, stage_id: str, method: str) -> bool:
        """Return whether a stage denies a method to a plan's keys: it denies what neither it nor the plan lists."""
        if stage_id not in self.denying:
            return False
        lists: tuple[Container[str], ...] = self.stages[stage_id].methods, _listed_by(plan, stage_id)
        return all(_resolved(method, listed) not in listed for listed in lists)

    def plan_for(self, plan_ids: Iterable[str], stage_id: str) -> UsagePlan | None:
        """Return the one of a key's plans that opens the stage."""
        for plan_id in plan_ids:
            if self.opens(plan_id, stage_id):
                return self.plans[plan_id]
        return None

    def on_unavailable(self, stage_id: str, plan_id: str, default: OnUnavailable) -> OnUnavailable:
        """Return the stricter policy of a stage and a plan; the default if neither has one."""
        stage, plan = self.stages.get(stage_id), self.plans.get(plan_id)
        policies = [each.on_unavailable for each in (stage, plan) if each is not None and each.on_unavailable]
        return max(policies, key=_STRICTNESS.index, default=default)


class _BucketMethods(dict[str, Mapping[str, str]]):
    """`CatalogSnapshot.bucket_methods`: of each stage computed when it is first met."""

    def __init__(self, methods_by_stage: Mapping[str, frozenset[str]]) -> None:
        super().__init__()
        self._methods_by_stage = methods_by_stage

    def __missing__(self, stage_id: str) -> Mapping[str, str]:
        listed = self._methods_by_stage.get(stage_id)
        if listed is None:
            return _NO_METHODS  # not kept: the text may be any caller's
        heads = {f"HEAD{method[3:]}": method for method in listed if method.startswith("GET ")}
        self[stage_id] = methods = heads | {method: method for method in listed}
        return methods


def _listed_by(plan: UsagePlan, stage_id: str) -> Container[str]:
    """Return the methods that a plan lists for a stage."""
    plan_stage = plan.stage(stage_id)
    return plan_stage.throttles if plan_stage else ()


def _resolved(method: str, listed: Container[str]) -> str:
    """Return the method as which a plan or a stage that lists these counts one: a HEAD that it does not list as GET."""
    return f"GET{method[4:]}" if method.startswith("HEAD ") and method not in listed else method


def _summaries(
    documents: Mapping[str, _T], summarize: Callable[[_T], DocumentSummary]
) -> Mapping[str, DocumentSummary]:
    if isinstance(documents, LazyDocuments):
        return documents.summaries
    return {name: summarize(document) for name, document in documents.items()}


def overlaps(plans: Iterable[UsagePlan]) -> Iterable[tuple[UsagePlan, UsagePlan, str]]:
    """Yield each pair of plans that open the same stage, with that stage: no key may be in both."""
    by_stage: dict[str, list[UsagePlan]] = {}
    for plan in plans:
        for plan_stage in plan.stages:
            for other in by_stage.setdefault(plan_stage.stage, []):
                yield other, plan, plan_stage.stage
            by_stage[plan_stage.stage].append(plan)
