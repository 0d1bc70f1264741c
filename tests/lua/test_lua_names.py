"""A hash is read as names and values, and no value is taken for a name, whatever its bytes are.

Run on a dict, which has the fields in the order in which they are written here.
"""

import pytest
from helpers.lua_tools import PlainServer
from vectors.packing import (
    DAYS,
    KEY,
    NOW,
    PLAN,
    TODAY,
    doubles,
    version_token,
)

ARCHIVE = b"gold:20513"


def token(epoch):
    return version_token(epoch=epoch)


@pytest.mark.parametrize("value", [token("d:gold:2"), b"d:gold:1 and more"])
def test_usage_finds_no_day_in_a_value(value):
    """Which begins like the field of a closed day."""
    held = {KEY.encode(): {b"r": value}, DAYS.encode(): {ARCHIVE: doubles(6, 7)}}
    reply = PlainServer(held, "usage").eval([KEY.encode(), DAYS.encode()], [b"gold"])
    assert reply == [0, 0, 0, 0, 0, 20513, 6, 7]


def test_a_lease_is_not_noted_in_a_value():
    """A version token that begins like the field of a note."""
    own = token("l:one---")
    request = doubles(NOW, 1, 0, 257, 5, 1, 100_000, -1, 0, 0, 0) + own
    server = PlainServer({KEY.encode(): {b"r": own}})
    reply = server.eval([KEY.encode()], [request, PLAN.encode(), b"l:two", b"l:none"])
    assert isinstance(reply, bytes) or reply[0] == 1
    assert set(server.state[KEY.encode()]) == {b"r", PLAN.encode(), b"l:two"}


def test_a_journal_is_not_noted_in_a_value():
    """A version token that begins like the field of an entry."""
    own = token("j:life--")
    request = doubles(NOW, 1, 0, 1, 5, 1, 100_000, -1, 0, 0, 0) + own
    server = PlainServer({KEY.encode(): {b"r": own}}, "charge_journal")
    reply = server.eval([KEY.encode(), DAYS.encode()], [request, PLAN.encode(), b"life---1", doubles(1, NOW)])
    assert reply == [5, NOW]
    assert set(server.state[KEY.encode()]) == {b"r", PLAN.encode(), b"j:life---1"}


@pytest.mark.parametrize(
    ("alerts", "reported"), [((100, 1, 80, 1), ["100"]), ((80, 1, 100, 1), ["80", "100"]), ((0, 1), [])]
)
def test_an_alert_is_reported_above_those_that_were(alerts, reported):
    """Not one below a share that was reported already, in any order; and none of 0 %."""
    request = doubles(NOW, 1, 0, 9, 0, 0, 0, 1, TODAY, TODAY + 1, TODAY + 2) + version_token() + doubles(*alerts)
    server = PlainServer({KEY.encode(): {b"r": version_token()}})
    server.eval([KEY.encode(), b"stream"], [request, PLAN.encode()])
    reports = [call for call in server.calls if call[0] == "XADD"]
    assert [report[report.index(b"percent") + 1].decode() for report in reports] == reported
