"""What `doctor` returns: findings, each with the command that mends it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from ratelimit.admin.doctor.repair import RepairSummary

Severity = Literal["ok", "unknown", "warning", "error"]
"""From the best to the worst."""

SEVERITIES: tuple[Severity, ...] = ("ok", "unknown", "warning", "error")

FORMAT = 1
"""Of `as_dict`: raised if a field changes its meaning or goes away."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check says about one server, or about the whole.

    Attributes:
        check: The check's name, such as "eviction".
        severity: "error": a promise is broken, or checks have no answer from Redis, now or at the next fault.
            "warning": it takes a further fault, or is close. "unknown": it could not be read. "ok".
        where: What was looked at: "primary", "replica 10.0.0.2:6379", "Sentinel 10.0.0.3:26379", "client", "data".
        message: What is wrong, and what follows from it; for "ok", what was seen.
        mend: The command that mends it, to be typed into a shell, or else what to do; "" for "ok".
        promise: The number of the promise (docs/promises.md) that it would break; None if it breaks none.
    """

    check: str
    severity: Severity
    where: str
    message: str
    mend: str = ""
    promise: int | None = None


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """What `doctor` found, the worst first.

    Attributes:
        findings: At least one of each check.
        repair: What was repaired before; None if nothing was to be.
    """

    findings: tuple[Finding, ...]
    repair: RepairSummary | None = None

    @property
    def worst(self) -> Severity:
        """The worst severity of all: "ok" only if everything could be read and is well."""
        return max((finding.severity for finding in self.findings), key=SEVERITIES.index, default="ok")

    def without(self, checks: Collection[str]) -> DoctorReport:
        """Return the report without the findings of some checks.

        Args:
            checks: Their names.
        """
        return replace(self, findings=tuple(finding for finding in self.findings if finding.check not in checks))

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain data, for JSON."""
        return {
            "format": FORMAT,
            "worst": self.worst,
            "findings": [asdict(finding) for finding in self.findings],
            **({} if self.repair is None else {"repair": self.repair.as_dict()}),
        }


def sorted_report(findings: Collection[Finding]) -> DoctorReport:
    """Return a report with the worst findings first, otherwise in the order given."""
    return DoctorReport(tuple(sorted(findings, key=lambda finding: -SEVERITIES.index(finding.severity))))
