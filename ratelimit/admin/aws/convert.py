"""An export of AWS as plans, stages and keys, and a note of all that cannot be the same. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ratelimit.admin.aws.keys import AwsKey, KeyConversion
from ratelimit.admin.aws.notes import Notes
from ratelimit.admin.aws.plans import PlanConversion
from ratelimit.admin.aws.shapes import AwsExport, Note
from ratelimit.model import Scope, Stage, Throttle, UsagePlan


@dataclass(frozen=True, slots=True)
class AwsCatalogue:
    """What an export comes to. `account` is None where the export does not tell of it."""

    plans: tuple[UsagePlan, ...]
    stages: tuple[Stage, ...]
    account: Throttle | None
    keys: tuple[AwsKey, ...]
    notes: tuple[Note, ...]


def convert(export: AwsExport, *, api_names: bool = False, throttle_scope: Scope = "key") -> AwsCatalogue:
    """Return an export as plans, stages and keys.

    Stages are called "<API id>/<stage>"; with `api_names` "<API name>/<stage>" where get-rest-apis gives the API a
    name that no other has and that can be part of an id.
    """
    notes = Notes()
    work = PlanConversion(export, notes, api_names=api_names, scope=throttle_scope)
    plans, stages = tuple(work.plans()), tuple(work.stages())
    account = None if export.account is None else notes.throttle(export.account.get("throttleSettings", {}), "account")
    keys = tuple(KeyConversion(export, notes, {plan.id: plan for plan in plans}).keys())
    return AwsCatalogue(plans, stages, account, keys, (*export.notes, *notes.all()))
