"""Alerts on quotas, as the check script writes them to the stream `<namespace>:alerts`."""

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
    """A key reached a share of its quota. Written once per window and share, for the request that reached it.

    Attributes:
        key_id: The key.
        plan_id: The plan whose quota it is.
        percent: The share that was reached, one of the plan's `alerts`.
        used: Units used in this window, that request included.
        limit: The quota's limit, with what was granted for this window.
        window_start: First day of the window (UTC).
        at: When the request was decided, by the server's clock: seconds since 1970.
    """

    key_id: str
    plan_id: str
    percent: int
    used: int
    limit: int
    window_start: date
    at: float


def _time_us(text: str) -> int:
    if not 0 <= (time_us := int(text)) < _END_US:
        raise ValueError("not a time from 1970 to 9999")
    return time_us


def alert_from(fields: Mapping[bytes, bytes] | Mapping[str, str]) -> Alert:
    """Parse an entry of the stream.

    Args:
        fields: The fields of the entry, as redis-py returns them: bytes, or str with `decode_responses`.

    Raises:
        StoreError: The entry is not an alert.
    """
    try:
        entry = {text(name): text(value) or "" for name, value in fields.items()}
        return Alert(
            entry["key"],
            entry["plan"],
            int(entry["percent"]),
            int(entry["used"]),
            int(entry["limit"]),
            date.fromordinal(int(entry["window_day"]) + EPOCH_ORDINAL),
            _time_us(entry["time_us"]) / MICROSECONDS,
        )
    except (KeyError, ValueError, OverflowError) as error:
        raise StoreError(f"an entry of the stream of alerts cannot be read ({error!r})") from None
