"""Calls of shared_lease.lua by hand, under the caller's clock; and an exact bucket, in which what is spent must fit."""

import struct
from fractions import Fraction

from ratelimit import Throttle
from ratelimit.scripts import load

KEY = "ratelimit:stage:shop/prod:*"
NOW = 1_772_625_600_000_000
"""2026-03-04 12:00:00 UTC, at which an epoch begins."""
VERSION = "epoch--10000000001"
TOLERANCE_US = 2_000_000


def request(
    now,
    throttle,
    *,
    flags=0,
    waiting=0,
    multiple=1,
    ahead=0,
    demand=1,
    recent=0,
    epoch=0,
    version=VERSION,
    returned=(),
):
    numbers = now, flags, throttle.burst, *throttle.ratio, waiting, multiple, ahead, demand, recent, epoch
    packed = struct.pack("<11d", *numbers) + version.encode()
    return packed + b"".join(struct.pack("<3d", *each) for each in returned)


class Answer:
    """The reply, in words."""

    def __init__(self, reply):
        self.status, self.now = reply[:2]
        if self.status == 1:
            numbers = struct.unpack("<6d", reply[2])
            self.granted, self.level, self.last, self.epoch, self.pace, self.credited = map(int, numbers)


class Script:
    """The script on a server, of which one bucket is used."""

    def __init__(self, client, key=KEY):
        self.client, self.key = client, key
        self.sha = client.script_load(load("shared_lease").source)

    def __call__(self, now, throttle, **asked):
        return self.raw(request(now, throttle, **asked))

    def raw(self, packed):
        return Answer(self.client.evalsha(self.sha, 1, self.key, packed))

    def numbers(self):
        """What is stored: thirteen numbers."""
        return list(map(int, struct.unpack("<13d", self.client.get(self.key)[:104])))


class ExactBucket:
    """What was spent, in the order in which it was charged, and the limits as they changed."""

    def __init__(self):
        self.charges = []

    def charge(self, last_us, throttle, granted):
        """Note an execution; return it, so that units of it can be given back."""
        self.charges.append([last_us, throttle, granted])
        return self.charges[-1]

    def verify(self):
        level, last_us = None, 0
        for at_us, throttle, spent in self.charges:
            if level is None:
                level = Fraction(throttle.burst)
            else:
                passed_us = max(0, at_us - last_us)
                level = min(Fraction(throttle.burst), level + passed_us * throttle.rate / 1_000_000)
            last_us = at_us
            level -= spent
            assert level >= 0, f"{-level} more than the limit at {at_us}"


def throttle(rate, burst):
    return Throttle(rate, burst)
