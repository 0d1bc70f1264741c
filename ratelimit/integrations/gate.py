"""What happens with one request, from its route to the answer. No I/O, and no framework: plain values in and out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

from ratelimit import validation
from ratelimit.decision import Decision, Reason
from ratelimit.errors import ConfigError
from ratelimit.headers import Dialect
from ratelimit.integrations import answers
from ratelimit.integrations.answers import Answer
from ratelimit.integrations.callers import KeyCallable, KeySource, header, validate_key
from ratelimit.integrations.marks import UNMARKED, Marks
from ratelimit.registry.redis_keys import OTHERS
from ratelimit.validation import shown

EXEMPT = Decision(Reason.ALLOWED)
"""The decision about a request that is not limited: it has no limits."""

Preflight = Literal["check", "skip"]
"""Whether a preflight meets the limits of all callers, or none."""


class PlannedCheck(NamedTuple):
    """The check that a request needs.

    Attributes:
        method: The route's method, such as "GET /pets/{id}"; "*", which stands for all that nobody lists, for a request
            that matches no route.
        cost: Units to take from each limit.
        needs_key: Whether it needs a caller whose plan opens the stage.
        charges_plan: Whether the caller's plan and quota apply, and not the limits of the stage and the account alone.
    """

    method: str
    cost: int = 1
    needs_key: bool = True
    charges_plan: bool = True


_PREFLIGHT = PlannedCheck(OTHERS, needs_key=False, charges_plan=False)
_VERB = re.compile(r"[A-Z]{1,32}")


def method_of(verb: str, template: str) -> str | None:
    """Return the method of a request by its verb and its route's template; None if no plan could list such a verb."""
    return f"{verb} {template}" if _VERB.fullmatch(verb) else None


class Gate:
    """Decides which check a request needs, and what is replied.

    Args:
        stage: The stage that the application is, "<api>/<stage>".
        key: Who a request comes from: `header("x-api-key")`, `query(...)`, `bearer(...)`, `address(...)`, or a function
            of the framework's request that returns a key's value, an `Identity` or None.
        preflight: "check": a preflight needs no key, and meets the stage's bucket for unlisted methods and the account.
            "skip": it is not limited.
        charge_unmatched: Whether a request that matches no route (404, 405) is charged to its caller's plan and quota.
            If not, it needs a key all the same, and meets the limits that all callers share.
        exempt: Methods that are not limited, such as "GET /docs", with HEAD. `marks.exempt` says so of a function.
        headers: The dialect of the fields; see `Decision.headers`.

    Raises:
        ConfigError: An argument cannot be used.
    """

    def __init__(
        self,
        *,
        stage: str,
        key: KeySource | KeyCallable | None = None,
        preflight: Preflight = "check",
        charge_unmatched: bool = True,
        exempt: Iterable[str] = (),
        headers: Dialect = "ietf",
    ) -> None:
        self.stage = validation.stage_id(stage, "stage")
        self.key = header() if key is None else validate_key(key)
        self.dialect = answers.validate_dialect(headers)
        self._skips_preflight = validation.one_of(preflight, ("check", "skip"), "preflight") == "skip"
        self._charges_unmatched = validation.flag(charge_unmatched, "charge_unmatched")
        self._exempt = _methods(exempt)

    def plan(self, method: str | None, marks: Marks = UNMARKED, *, is_preflight: bool = False) -> PlannedCheck | None:
        """Return the check that a request needs; None if it is not limited.

        Args:
            method: Verb and template of the route that it matches, such as "GET /pets/{id}", the verb being "GET" for
                the handshake of a websocket; None for a request that matches none: 404, 405 and redirects.
            marks: Of the function that will answer it.
            is_preflight: Whether it is a preflight (CORS), whatever it matches.
        """
        if is_preflight:
            return None if self._skips_preflight else _PREFLIGHT
        if method is None:
            return PlannedCheck(OTHERS, charges_plan=self._charges_unmatched)
        if marks.exempt or (self._exempt and _as_get(method) in self._exempt):
            return None
        return PlannedCheck(method, marks.cost)

    def fields(self, decision: Decision) -> dict[str, str]:
        """Return the fields for any response to a request, by name."""
        return decision.headers(self.dialect)

    def denial(self, decision: Decision, verb: str) -> Answer:
        """Return the answer to a request that is denied."""
        return answers.denial(decision, self.dialect, has_body=verb != "HEAD")

    def exposed(self, present: str = "") -> str:
        """Return Access-Control-Expose-Headers for a request with Origin, with the names that are `present`."""
        return answers.exposed(self.dialect, present)

    def unexposed(self, names: Iterable[str]) -> list[str]:
        """Return the fields that a list for Access-Control-Expose-Headers lacks."""
        return answers.unexposed(self.dialect, names)

    def unconfigured(self, stages: Iterable[str], plans: Iterable[str]) -> list[str]:
        """Return what is named here and configured nowhere, a sentence each.

        Args:
            stages: All stages that a plan opens, or that are configured themselves.
            plans: All plans.
        """
        plan = self.key.plan if isinstance(self.key, KeySource) else None
        problems = []
        if self.stage not in stages:
            problems.append(f"{unconfigured_stage(self.stage)}: every caller gets 403 until a plan lists it")
        if plan is not None and plan not in plans:
            problems.append(f"there is no plan {shown(plan)}, which key= names: its callers get 403 until there is")
        return problems


def unconfigured_stage(stage: str) -> str:
    """Return what is wrong with a stage that is configured nowhere."""
    return f"no plan opens the stage {shown(stage)}, and nobody has configured it"


def _methods(exempt: Iterable[str]) -> frozenset[str]:
    """Return the methods that are exempt; HEAD goes with GET."""
    if isinstance(exempt, str | bytes) or not isinstance(exempt, Iterable):
        raise ConfigError(f"must be a list of methods such as 'GET /docs', not {shown(exempt)}", field="exempt")
    return frozenset(_as_get(validation.method_name(method, "exempt")) for method in exempt)


def _as_get(method: str) -> str:
    return f"GET {method[5:]}" if method.startswith("HEAD ") else method
