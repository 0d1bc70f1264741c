"""Converts an export of AWS to plans, stages and keys, with notes on everything that cannot be the same."""

from __future__ import annotations

from dataclasses import dataclass

from ratelimit.admin.aws.keys import AwsKey, KeyConverter
from ratelimit.admin.aws.notes import Notes
from ratelimit.admin.aws.plans import PlanConverter
from ratelimit.admin.aws.shapes import AwsExport, AwsNote
from ratelimit.model import Stage, Throttle, ThrottleScope, UsagePlan


@dataclass(frozen=True, slots=True)
class AwsConversion:
    """An export as plans, stages and keys.

    Attributes:
        plans: The plans that can be carried over.
        stages: The stages that can be carried over.
        account: The account throttle; None if there is none, or the export does not include it.
        keys: The keys that can be carried over.
        notes: Everything that is not carried over, or not as it was.
    """

    plans: tuple[UsagePlan, ...]
    stages: tuple[Stage, ...]
    account: Throttle | None
    keys: tuple[AwsKey, ...]
    notes: tuple[AwsNote, ...]


def convert(export: AwsExport, *, api_names: bool = False, throttle_scope: ThrottleScope = "key") -> AwsConversion:
    """Convert an export to plans, stages and keys.

    Args:
        export: The export.
        api_names: Call stages "<API name>/<stage>", where get-rest-apis gives the API a name that no other has and
            that can be part of an id; all others, and all without this flag, are called "<API id>/<stage>".
        throttle_scope: What a plan's throttle applies to, see `UsagePlan`.
    """
    notes = Notes()
    converter = PlanConverter(export, notes, api_names=api_names, scope=throttle_scope)
    plans, stages = tuple(converter.plans()), tuple(converter.stages())
    account = None if export.account is None else notes.throttle(export.account.get("throttleSettings", {}), "account")
    keys = tuple(KeyConverter(export, notes, {plan.id: plan for plan in plans}).keys())
    return AwsConversion(plans, stages, account, keys, (*export.notes, *notes.all()))
