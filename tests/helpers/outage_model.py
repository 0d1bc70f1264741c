"""A server and N replicas in whole numbers: the replicas decide by the code of the package, the server by a model."""

from dataclasses import dataclass, field
from struct import unpack

from ratelimit import Quota, StoreTimeout, StoreUnavailable, Throttle
from ratelimit.effects import IndependentCommands
from ratelimit.engine import protocol
from ratelimit.engine.limits import Bucket, CompiledLimits, QuotaCount
from ratelimit.engine.prepared_check import PreparedCheck
from ratelimit.local.journal import Journal
from ratelimit.local.local_caller import LocalQuota
from ratelimit.local.local_limits import KnownState, LocalLimits, Spending
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.snapshot import CatalogSnapshot
from ratelimit.registry.windows import window_at

START_US = 1_764_000_000_000_000
CALLER = "~caller"


@dataclass
class Server:
    """One caller's bucket and quota, in Redis."""

    throttle: Throttle | None
    quota: Quota | None
    now_us: int = START_US
    admitted: int = 0
    charged: list = field(default_factory=list)

    def __post_init__(self):
        self.rate, self.per = self.throttle.ratio if self.throttle else (0, 1)
        self.full = self.throttle.burst * self.per if self.throttle else 0
        self.level, self.last_us = self.full, self.now_us
        self.window_us, self.used = 0, 0
        self.highest = {}
        self._roll()

    def _roll(self):
        if self.throttle:
            self.level = min(self.full, self.level + (self.now_us - self.last_us) * self.rate)
            self.last_us = self.now_us
        if self.quota:
            end_us = window_at(self.quota, self.now_us)[1]
            if end_us > self.window_us:
                self.window_us, self.used = end_us, 0

    def check(self, cost):
        """Judge a check, as the script does; return whether it is admitted."""
        self._roll()
        admits = (not self.throttle or self.level >= cost * self.per) and (
            not self.quota or self.used + cost <= self.quota.limit
        )
        if admits:
            self.level -= cost * self.per
            self.used += cost
        return admits

    def charge(self, life, sequence, cost, spent_us):
        """Charge an entry of a journal, as the script does; return the status."""
        if sequence <= self.highest.get(life, 0):
            return protocol.JOURNAL_CHARGED_BEFORE
        self.highest[life] = sequence
        self._roll()
        self.level = max(-self.full, self.level - cost * self.per)
        if self.quota and window_at(self.quota, spent_us)[1] == self.window_us:
            self.used += cost
        self.charged.append((life, sequence, cost))
        return protocol.JOURNAL_CHARGED

    def states(self, sent_us):
        """What an answer says."""
        states = {}
        if self.throttle:
            states["plan:p"] = KnownState(self.level, self.last_us, self.per, self.now_us, sent_us)
        if self.quota:
            states["quota:p"] = KnownState(
                max(0, self.quota.limit - self.used), self.window_us, 1, self.now_us, sent_us
            )
        return states


class Replica:
    """One process: its part of the limits, its journal, the last states that it has seen."""

    def __init__(self, server, replicas):
        self.server, self.replicas = server, replicas
        self.namespace = Namespace("n", None, None)
        self.namespace.age_us = lambda: server.now_us - START_US
        self.local = LocalLimits()
        self.journal = Journal(self.namespace, self.local)
        limits = [Bucket("plan:p", server.throttle)] if server.throttle else []
        limits += [QuotaCount("quota:p", server.quota)] if server.quota else []
        self.limits = CompiledLimits(limits, "p:p", is_identity=True)
        self.prepared = PreparedCheck(CatalogSnapshot(), None, None, self.limits, ("n:{~caller}",), CALLER)
        self.known = {}
        self.is_cut = False

    def check(self, cost, spending=Spending.CERTAIN):
        """Decide a check; return whether it is admitted."""
        now_us = self.namespace.age_us()
        if not self.is_cut:
            self.local.end_outage()
            admitted = self.server.check(cost)
            self.known = self.server.states(now_us)
            return admitted
        self.local.begin_outage(self.replicas)
        server_us = self.server.now_us
        verdict = self.local.judge(
            self.limits, CALLER, cost, spending, now_us, server_us, lambda: self.known, lambda: self.known
        )
        if verdict.denial is not None:
            return False
        if spending is Spending.CERTAIN:
            assert self.journal.add(self.prepared, CALLER, "s/s", "GET /", cost, server_us, self.window_us())
        return True

    def window_us(self):
        state = self.local.callers[CALLER].states.get("quota:p")
        return state.until_us if isinstance(state, LocalQuota) else 0

    def replay(self, fault=None):
        """Send a batch of the journal. `fault`: None, "unsent", "lost" (carried out), "dropped" (not; unknown)."""
        operation = self.journal.replay(lambda *_: iter(()))
        request = next(operation, None)
        if request is None:
            return
        assert isinstance(request, IndependentCommands)
        try:
            if fault == "unsent":
                operation.throw(StoreUnavailable("not sent"))
            replies = [] if fault == "dropped" else [self._carry_out(command) for command in request]
            if fault in ("lost", "dropped"):
                operation.throw(StoreTimeout("no answer"))
            operation.send(replies)
        except (StoreUnavailable, StoreTimeout):
            assert fault
        except StopIteration:
            assert not fault

    def replay_all(self):
        for _ in range(100):
            if not len(self.journal):
                return
            self.replay()
        raise AssertionError("the journal does not end")

    def _carry_out(self, command):
        _, _, _, _, request, _, life, entry = command
        cost = int(unpack("<4d", request[:32])[1])
        sequence, spent_us = map(int, unpack("<2d", entry))
        return [self.server.charge(life, sequence, cost, spent_us), self.server.now_us]
