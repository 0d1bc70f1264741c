"""Alerts on quotas, as the script of the decision tells them on the stream `<namespace>:alerts`. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from ratelimit.effects import text
from ratelimit.errors import StoreError
from ratelimit.model import MICROSECONDS
from ratelimit.registry.windows import DAY_US, EPOCH_ORDINAL

_END_US = (date.max.toordinal() - EPOCH_ORDINAL) * DAY_US


@dataclass(frozen=True, slots=True)
class Alert:
    """A key reached a share of its quota: told once per window, for the request that took it there.

    percent       the share that was reached, one of the plan's `alerts`
    used, limit   units used by then, and the quota's limit; with what was granted for this window
    window_start  first day of the window (UTC)
    at            time of the request by the server's clock, seconds since 1970
    """

    key_id: str
    plan_id: str
    percent: int
    used: int
    limit: int
    window_start: date
    at: float


def _moment_us(text: str) -> int:
    if not 0 <= (time_us := int(text)) < _END_US:
        raise ValueError("no time")
    return time_us


def alert_from(fields: Mapping[bytes, bytes] | Mapping[str, str]) -> Alert:
    """Return the alert that the fields of one entry of the stream are, as redis-py returns them.

    Raises StoreError for an entry that is none.
    """
    try:
        told = {text(name): text(value) or "" for name, value in fields.items()}
        return Alert(
            told["key"],
            told["plan"],
            int(told["percent"]),
            int(told["used"]),
            int(told["limit"]),
            date.fromordinal(int(told["window_day"]) + EPOCH_ORDINAL),
            _moment_us(told["time_us"]) / MICROSECONDS,
        )
    except (KeyError, ValueError, OverflowError) as error:
        raise StoreError(f"an entry of the stream of alerts cannot be read ({error!r})") from None
