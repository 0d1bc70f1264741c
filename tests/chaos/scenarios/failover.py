"""A primary that is replaced: on request, because it died, or because the network around it is cut."""

from chaos.deployments import MIN_REPLICAS, watched
from chaos.run import KEYS, Scenario

SECOND_US = 1_000_000
LAG_S = MIN_REPLICAS["min-replicas-max-lag"]
RATE, BURST = int(KEYS["bucket"]["rate"]), KEYS["bucket"]["burst"]
UNEXACT_S = 2
"""A lag is so many whole seconds, and looked at once a second."""
PROMISED_S = 1
"""Within so long a former primary is left."""


def _fail_over(run):
    """A key is revoked at the new primary as soon as there is one."""
    servers = run.deployment.parts["watched"]
    run.steady(run.between(1, 1.5))
    with run.fault("SENTINEL FAILOVER"):
        servers.fail_over()
    run.revoke_when_possible()
    run.steady(3)


def _primary_dies(run):
    servers = run.deployment.parts["watched"]
    run.steady(run.between(1, 1.5))
    with run.fault("kill -9 of the primary"):
        servers.primary.crash()
        run.event("crashed")
        servers.wait_for_another()
    run.revoke_when_possible()
    run.steady(3)


def _divide(run):
    """The revocation is made at the new primary, once the former one should have stopped."""
    servers = run.deployment.parts["watched"]
    run.steady(run.between(1, 1.5))
    with run.fault("the primary is cut off"):
        servers.isolate()
        servers.wait_for_another()
        run.steady(run.between(3, 3.5))
        run.revoke_when_possible()
        run.steady(2)
        servers.mend()
    run.steady(3)


def admitted_within(seconds, key=None):
    """What a key admitted in so many seconds from the begin of the fault; None: all keys."""

    def bound(history):
        begin, _ = history.fault
        return sum(
            check.cost
            for check in history.checks
            if check.allowed
            and (key is None or check.key == key)
            and check.received_us >= begin
            and check.sent_us < begin + seconds * SECOND_US
        )

    return bound


def admitted_meanwhile(key=None):
    """What a key admitted from the begin of the fault until a second after its end."""

    def bound(history):
        begin, end = history.fault
        return admitted_within((end - begin) / SECOND_US + PROMISED_S, key)(history)

    return bound


def most_in_a_second(key):
    """The most that a key admitted in any second of the run."""

    def bound(history):
        admitted = history.admitted(key)
        most, total, first = 0, 0, 0
        for check in admitted:
            total += check.cost
            while check.received_us - admitted[first].received_us > SECOND_US:
                total -= admitted[first].cost
                first += 1
            most = max(most, total)
        return most

    return bound


def _bucket_for(seconds):
    return lambda _history: BURST + int(RATE * seconds)


def _bucket_meanwhile(history):
    begin, end = history.fault
    return BURST + int(RATE * ((end - begin) / SECOND_US + PROMISED_S))


def losing(seconds):
    """Bounds where what was admitted in so many seconds from the begin of the fault may be lost."""
    return {
        "over-admission": _bucket_for(seconds),
        "over quota": admitted_within(seconds, "quota"),
        "lost charges": admitted_within(seconds),
    }


LOSING_A_SECOND = losing(PROMISED_S)
MEANWHILE = {
    "over-admission": _bucket_meanwhile,
    "over quota": admitted_meanwhile("quota"),
    "lost charges": admitted_meanwhile(),
    "late admissions": None,
    "late admissions after 1 s": 0,
}

UNSEEN = {"late admissions": None, "late admissions after 1 s": 0}
"""A process without Redis sees no revocation."""

ALL = (
    Scenario(
        "planned failover",
        _fail_over,
        "The former primary is left within a second, though it is healthy and goes on as one for ten.",
        "SENTINEL FAILOVER; a key is revoked at the new primary at once",
        watched({}),
        bounds={"": MEANWHILE},
    ),
    Scenario(
        "planned failover, min-replicas",
        _fail_over,
        "No more is admitted than a plan and what a second admits, and nobody who is revoked.",
        "SENTINEL FAILOVER; a key is revoked at the new primary at once; min-replicas-to-write 1 and max-lag 2",
        watched(MIN_REPLICAS),
        bounds={
            "": {
                "over-admission": _bucket_for(PROMISED_S),
                "over quota": most_in_a_second("quota"),
                "lost charges": admitted_meanwhile(),
            },
            "local": UNSEEN,
        },
    ),
    Scenario(
        "primary dies",
        _primary_dies,
        "What had not been replicated is lost, which is what a second admits at most.",
        "kill -9 of the primary; the Sentinel notices after a second",
        watched({}),
        bounds={"": LOSING_A_SECOND, "local": UNSEEN},
    ),
    Scenario(
        "split brain",
        _divide,
        "What the primary admitted while it was cut off is lost. A revocation holds on the side on which it was made.",
        "the primary and half of the processes are cut off from its replicas and the Sentinel for 7 to 8 s",
        watched({}, on_both_sides=True),
        bounds={"": MEANWHILE},
        is_long=True,
    ),
    Scenario(
        "split brain, min-replicas",
        _divide,
        "The primary stops to admit after max-lag and two seconds at most; a revocation after that holds everywhere.",
        "the primary and half of the processes are cut off for 7 to 8 s; min-replicas-to-write 1 and max-lag 2",
        watched(MIN_REPLICAS, on_both_sides=True),
        bounds={"": losing(LAG_S + UNEXACT_S), "local": UNSEEN},
    ),
)
