"""Processes that crash, fork, and whose callers go away; and one that goes on for long."""

from chaos.deployments import direct
from chaos.run import CALLERS, KEYS, Scenario

TERM_S = 0.5
KILLED = 2
LEASED_EXCESS = int(int(KEYS["bucket"]["rate"]) * 2 * TERM_S)
"""burst + rate x (W + 2 x term)."""


def _kill(run):
    run.steady(run.between(1, 1.5))
    names = run.random.sample(sorted(run.replicas), KILLED)
    for name in names:
        run.kill(name)
        run.steady(run.between(0.3, 0.8))


def _crashes(run):
    _kill(run)
    run.steady(1)
    run.revoke()
    run.steady(0.7)


def _crashes_with_leases(run):
    _kill(run)
    run.steady(2)


def _no_fault(run):
    run.steady(run.between(3, 4))
    run.revoke()
    run.steady(0.7)


def _leased_no_fault(run):
    run.steady(run.between(4, 5))


def _soak(run):
    for _ in range(20):
        run.steady(run.between(1.5, 2))
        with run.server.client() as client:
            client.client_kill_filter(_type="normal", skipme=True)
    run.steady(2)
    run.revoke()
    run.steady(0.7)


ALL = (
    Scenario(
        "processes crash",
        _crashes,
        f"A process that is killed leaves nothing behind; at most the {CALLERS} checks that it had sent are charged.",
        f"kill -9 of {KILLED} processes",
        direct,
    ),
    Scenario(
        "processes crash with leases out",
        _crashes_with_leases,
        "What a process had prepaid is lost; nothing beyond the plan is admitted.",
        f"kill -9 of {KILLED} processes that hold leases of {TERM_S:g} s",
        direct,
        lease_s=TERM_S,
        bounds={
            "": {
                # Of units that were prepaid and not spent, none is a second execution, nor left for others to spend.
                "extra executions": None,
                "early denials": None,
                "over-admission": LEASED_EXCESS,
            }
        },
        keys=("ample", "bucket", "quota"),
    ),
    Scenario(
        "callers go away",
        _no_fault,
        "A check whose caller went away is charged once or not at all, and no reply comes to another.",
        "each check is cancelled after 0 to 30 ms, if it is not done by then",
        direct,
        blocking=0,
        asyncio=4,
        replica={"cancels": True, "pace_s": 0.005},
    ),
    Scenario(
        "callers go away with leases",
        _leased_no_fault,
        "What a process prepaid for callers that went away is spent by others, or given back.",
        f"each check is cancelled after 0 to 30 ms, if it is not done by then; leases of {TERM_S:g} s",
        direct,
        lease_s=TERM_S,
        bounds={"": {"early denials": None, "over-admission": LEASED_EXCESS}},
        blocking=0,
        asyncio=4,
        replica={"cancels": True, "pace_s": 0.005},
        keys=("ample", "bucket", "quota"),
    ),
    Scenario(
        "forks",
        _no_fault,
        "A process that forks under load goes on, and its child does as well.",
        "each process with `Limiter` forks after a second",
        direct,
        replica={"forks": True},
    ),
    Scenario(
        "soak",
        _soak,
        "Memory, descriptors and threads of a process stay as they are.",
        "all connections are closed, 20 times in 30 to 40 s",
        direct,
        bounds={"": {"growth of memory": 4096, "growth of descriptors": 8, "growth of threads": 4}},
        is_long=True,
    ),
)
