"""What every contender is: a way to decide a request on a server. All get the same `Load`."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass

HOUR = 3600
DAY = 86_400


@dataclass(frozen=True)
class Load:
    """What is to be enforced for each caller. Whoever has a bucket uses the first three, whoever counts `window`.

    rate     tokens per `seconds`
    burst    capacity of the bucket
    window   requests in a fixed window: of one day for a quota, of an hour for peers that have a window alone
    """

    rate: int
    seconds: int
    burst: int
    window: int

    @property
    def unit(self):
        return {1: "s", HOUR: "h"}[self.seconds]


AMPLE = Load(rate=100_000, seconds=1, burst=1_000_000, window=1_000_000_000)
"""Never denies: what a call costs when it is admitted."""


def exactly(n):
    """A load that admits n requests and not one more, within the hour."""
    return Load(rate=1, seconds=HOUR, burst=n, window=n)


def names(_url, _load, callers, progress=None):
    """Callers by name: peers take any text."""
    del progress
    return [f"caller{i:04}" for i in range(callers)]


@dataclass(frozen=True)
class Contender:
    """One way to decide a request on a server.

    kind      "floor", "ours" or "peer"
    limits    what it enforces
    bucket    whether it keeps a token bucket, and so promises burst + rate * time
    connect   (url, load) -> context of a function (caller, cost=1) -> admitted
    aconnect  the same for asyncio; None if it is not measured
    enrol     (url, load, callers, progress=None) -> the callers' names, stored on the server where that is needed
    admits    what each call is expected to answer under AMPLE
    exact     whether it admits all that the rule admits; one that holds units in advance may admit less, never more
    """

    name: str
    kind: str
    limits: str
    connect: Callable[[str, Load], AbstractContextManager]
    aconnect: Callable[[str, Load], AbstractAsyncContextManager] | None = None
    enrol: Callable[..., list[str]] = names
    admits: bool = True
    bucket: bool = False
    exact: bool = True


class UnansweredError(Exception):
    """The limiter gave no decision (a time-out, no free connection). Not counted as admitted, nor as denied."""
