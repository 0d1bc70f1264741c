"""One run: a scenario with a seed. Servers, processes, a fault on schedule, and what the checker says of it."""

import multiprocessing
import random
import re
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from chaos import bugs
from chaos.checker import verdicts
from chaos.gateway import CALLERS, PACE_S, STAGE, Replica, serve, waited_by_thread_us
from chaos.history import Recorder, read
from ratelimit import Catalog, Quota, StoreError, Throttle, UsagePlan

DEADLINE_S = 0.05
PATIENCE_S = 30
WATCH_S = 0.05
MANY = 1_000_000_000

KEYS = {
    "ample": {"rate": "1000000", "burst": 1_000_000, "quota": MANY, "ample": True},
    "bucket": {"rate": "40", "burst": 60, "quota": MANY},
    "quota": {"rate": "1000000", "burst": 1_000_000, "quota": 600},
    "revoked": {"rate": "1000000", "burst": 1_000_000, "quota": MANY, "ample": True},
}
"""The keys of a run, with their limits; all callers choose among them at random.

ample    meets no limit: whether it is denied, and what is charged to it, shows everything else
bucket   asks for more than it may, all the time
quota    is used up within the run
revoked  is disabled within the run
"""

EXACT = {
    "over-admission": 0,
    "over quota": 0,
    "extra executions": 0,
    "lost charges": 0,
    "late admissions": 0,
    "deadline overruns": 0,
    "recovery": 1000,
    "wrong denials": 0,
    "early denials": 0,
    "raised": 0,
}
"""What holds with one live primary."""

POLICIES = ("closed", "local")
"""Under which a scenario may be run. There is nothing to claim of `open`."""

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["chaos.gateway"])


@dataclass(frozen=True)
class Scenario:
    """A fault, and what is claimed to hold meanwhile.

    act        does it, given the run: waits, injects faults, revokes
    claim      in words
    fault      in words
    deploy     a context manager: given the server's name, yields where to run (see `deployments`)
    bounds     claim -> bound, beside or in place of those of EXACT; None takes one out
    blocking, asyncio  how many processes of each twin
    policies   of the limiters, under which it is run
    lease_s    of the plans
    keys       those of KEYS that are checked
    is_long    whether it is left out of the short suite
    """

    name: str
    act: Callable
    claim: str
    fault: str
    deploy: Callable
    bounds: dict = field(default_factory=dict)
    blocking: int = 2
    asyncio: int = 2
    policies: tuple[str, ...] = ("closed", "local")
    options: dict = field(default_factory=dict)
    replica: dict = field(default_factory=dict)
    lease_s: float = 0
    keys: tuple[str, ...] = tuple(KEYS)
    clock_moves: bool = False
    is_long: bool = False

    @property
    def processes(self):
        return self.blocking + self.asyncio

    @property
    def workload(self):
        """In words."""
        options = {"callers": CALLERS, "pace_s": PACE_S} | self.replica
        keys = ", ".join(self.keys)
        return (
            f"{self.blocking} processes with `Limiter`, {self.asyncio} with `AsyncLimiter`, "
            f"{options['callers']} callers each, a check every {options['pace_s'] * 1000:g} ms; keys: {keys}"
        )

    def all_bounds(self, policy):
        chosen = EXACT | self.bounds.get("", {})
        if policy == "local":
            chosen |= {claim: _sum(chosen[claim], more) for claim, more in LOCAL.items()}
        chosen |= self.bounds.get(policy, {})
        return {claim: bound for claim, bound in chosen.items() if bound is not None}


def _sum(bound, more):
    """What a fault may lose, and what is admitted without Redis, come together."""
    return lambda history: (bound(history) if callable(bound) else bound) + more(history)


def local_excess(history):
    """(burst + rate x T) x N/N0 of the key `bucket`; T from the first to the last answer without Redis, N0 = N."""
    degraded = [check for check in history.checks if check.is_degraded]
    if not degraded:
        return 0
    limits = history.limits("bucket")
    begin, end = min(check.sent_us for check in degraded), max(check.received_us for check in degraded)
    return int(limits["burst"] + int(limits["rate"]) * (end - begin) / 1_000_000)


def local_quota_excess(history):
    """(N - 1) x floor(left / N0), with all that may have been left."""
    processes = history.run["processes"]
    return (processes - 1) * (history.limits("quota")["quota"] // processes)


LOCAL = {"over-admission": local_excess, "over quota": local_quota_excess}
"""What is published of the policy `local`, where all replicas are counted."""


def _quota(limit):
    """A quota whose window does not end while a run lasts: not within two days of now."""
    return Quota(limit, "MONTH", (datetime.now(UTC).day + 13) % 28)


class Run:
    """What a scenario acts on.

    Attributes:
        random: By the seed. All that is random comes from it.
        deployment: Where it runs; see `deployments`.
        server: The deployment's first server.
        replicas: name -> process.
    """

    def __init__(self, scenario, seed, policy, server_name, folder, bug="", progress=lambda _what: None):
        self.scenario, self.seed, self.policy, self.bug = scenario, seed, policy, bug
        self.random = random.Random(f"{scenario.name}:{seed}")
        name = re.sub(r"\W+", "-", f"{scenario.name} {policy} {seed} {bug}").strip("-")
        self.path = folder / f"{name}.jsonl"
        self._server_name, self._progress = server_name, progress
        self.replicas, self._pipes, self._killed = {}, {}, set()

    def again(self):
        """The same run, to be executed anew."""
        return Run(self.scenario, self.seed, self.policy, self._server_name, self.path.parent, self.bug, self._progress)

    def execute(self):
        """Do it; return the history."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        self._recorder = Recorder(self.path)
        try:
            with self.scenario.deploy(self._server_name) as self.deployment:
                self.server = self.deployment.server
                self._describe()
                self.keys = {label: self._create(label) for label in self.scenario.keys}
                try:
                    self._start()
                    self.scenario.act(self)
                finally:
                    self._stop()
                self._read_charges()
        finally:
            self._recorder.close()
        return read(self.path)

    def _describe(self):
        scenario, urls = self.scenario, len(self.deployment.urls)
        self._names = [
            f"{'blocking' if number < scenario.blocking else 'asyncio'}-{number}"
            for number in range(scenario.processes)
        ]
        self._recorder.run(
            scenario=scenario.name,
            seed=self.seed,
            policy=self.policy,
            bug=self.bug,
            server=self._server_name,
            deadline_s=scenario.options.get("deadline", DEADLINE_S),
            clock_moves=scenario.clock_moves,
            processes=scenario.processes,
            cut_off=self._names[::urls] if self.deployment.cut_off else [],
            keys={label: KEYS[label] for label in scenario.keys},
        )

    def _create(self, label, value=None):
        limits = KEYS[label]
        with self.deployment.client() as client:
            catalog = Catalog(client)
            plan = UsagePlan(
                label,
                Throttle(limits["rate"], limits["burst"]),
                _quota(limits["quota"]),
                [STAGE],
                lease=self.scenario.lease_s,
            )
            catalog.put_plan(plan)
            return catalog.create_key(plans=[label], value=value)

    def restore(self):
        """Make plans and keys anew, with the same values."""
        self.event("restoring")
        self.keys = {label: self._create(label, key.value) for label, key in self.keys.items()}
        self.event("restored")

    def _start(self):
        options = {"deadline": DEADLINE_S, "on_unavailable": self.policy, "replicas": self.scenario.processes}
        values = {label: key.value for label, key in self.keys.items()}
        urls = self.deployment.urls
        if self.bug and bugs.BUGS[self.bug].without_sentinel:
            urls = [self.deployment.parts["watched"].primary_url]
        for number, name in enumerate(self._names):
            replica = Replica(
                name=name,
                is_async=number >= self.scenario.blocking,
                url=urls[number % len(urls)],
                keys=values,
                history=str(self.path),
                seed=f"{self.scenario.name}:{self.seed}",
                options=options | self.scenario.options | bugs.options(self.bug),
                bug=self.bug,
                **self.scenario.replica,
            )
            self._pipes[name], theirs = _processes.Pipe()
            self.replicas[name] = _processes.Process(target=serve, args=(replica, theirs), daemon=True)
            self.replicas[name].start()
            theirs.close()
        for name, pipe in self._pipes.items():
            if not pipe.poll(PATIENCE_S):
                raise RuntimeError(f"{name} did not start")
            pipe.recv()  # raises EOFError if it ended; what it printed says why

    def _stop(self):
        for pipe in self._pipes.values():
            pipe.close()
        for name, process in self.replicas.items():
            process.join(PATIENCE_S)
            if process.is_alive():
                process.kill()
                process.join()
                raise RuntimeError(f"{name} did not end")

    def _read_charges(self):
        """Record what Redis has counted for each key."""
        today = datetime.now(UTC).date()
        span = today - timedelta(days=2), today + timedelta(days=2)
        with self.deployment.client() as client:
            catalog = Catalog(client)
            for label, key in self.keys.items():
                days = catalog.usage(label, *span, key_id=key.id).items[key.id]
                self.event("charged", key=label, units=sum(used for used, _ in days))

    def event(self, name, **about):
        self._recorder.event(name, **about)

    def steady(self, seconds):
        """Let the load go on for so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._note_waiting()
            self._progress(f"{self.scenario.name}, {self.policy}, seed {self.seed}")
            time.sleep(min(left, WATCH_S))
            for name, process in self.replicas.items():
                if name not in self._killed and not process.is_alive():
                    raise RuntimeError(f"{name} ended by itself, with {process.exitcode}")

    def _note_waiting(self):
        """Record how long servers, and the proxies in this process, were kept from running so far."""
        processes = ["self", *(server.process.pid for server in self.deployment.servers)]
        waited_us = sum(sum(waited_by_thread_us(process).values()) for process in processes)
        self.event("waited", waited_us=waited_us)

    def between(self, low, high):
        """A number by the seed."""
        return self.random.uniform(low, high)

    @contextmanager
    def fault(self, what):
        """The fault lasts as long as the block."""
        self.event("fault begins", what=what)
        yield
        self.event("fault ends", what=what)

    def revoke(self, label="revoked"):
        """Disable a key; what is sent after the acknowledgement must not be admitted."""
        self.event("revoking", key=label)
        with self.deployment.client() as client:
            Catalog(client).update_key(self.keys[label].id, enabled=False)
        self.event("revoked", key=label)

    def revoke_when_possible(self):
        """The same, again and again until a new primary takes it."""
        while True:
            try:
                self.revoke()
            except StoreError:
                self.steady(0.05)
            else:
                return

    def kill(self, name):
        """End a process as a crash does."""
        self._killed.add(name)
        self.replicas[name].kill()
        self.replicas[name].join()
        self.event("died", process=name, checks=CALLERS)


def judge(scenario, history):
    """Return the verdicts on a history of a scenario."""
    return verdicts(history, scenario.all_bounds(history.run["policy"]))
