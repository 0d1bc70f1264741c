"""How many things a catalogue may hold."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

from ratelimit import validation


@dataclass(frozen=True, slots=True)
class Ceilings:
    """How many things a catalogue may hold at most. None is unlimited. A change that would go beyond is refused.

    They bind the catalogues that were given them, however many of these change things at once. What is beyond a
    ceiling already may stay, and shrink.

    Attributes:
        keys: Of the namespace.
        plans: Of the namespace.
        plans_per_key: Plans that one key is in.
        methods_per_stage: Method throttles of one plan for one stage.
        stages_per_api: Stages of one API, configured or opened by a plan.
        resources_per_api: Paths of one API, in the methods that are listed for its stages.

    Raises:
        ConfigError: One of them is neither a whole number nor None.
    """

    keys: int | None = None
    plans: int | None = None
    plans_per_key: int | None = None
    methods_per_stage: int | None = None
    stages_per_api: int | None = None
    resources_per_api: int | None = None

    def __post_init__(self) -> None:
        for each in fields(self):
            if getattr(self, each.name) is not None:
                validation.whole(getattr(self, each.name), each.name)

    @classmethod
    def aws(cls) -> Self:
        """Return the quotas that AWS API Gateway gives an account and region."""
        return cls(
            keys=10_000, plans=300, plans_per_key=10, methods_per_stage=20, stages_per_api=10, resources_per_api=300
        )
