"""A server whose clock moves."""

from chaos.deployments import with_clock
from chaos.run import KEYS, Scenario

HOUR_S = 3600
FLAP_S = 0.05
RATE, BURST = int(KEYS["bucket"]["rate"]), KEYS["bucket"]["burst"]


def _steps(*seconds):
    """An act in which the clock is set to these seconds beside the right time, one after the other."""

    def act(run):
        run.steady(run.between(1.5, 2))
        with run.fault("steps of the clock"):
            for offset_s in seconds:
                run.server.set_clock(offset_s)
                run.steady(run.between(1, 1.5))
        run.steady(1)
        run.revoke()
        run.steady(0.7)

    return act


def _flap(run):
    run.steady(run.between(1.5, 2))
    with run.fault("a clock that flaps"):
        for _ in range(100):
            run.server.set_clock(run.random.choice((-FLAP_S, 0, FLAP_S)))
            run.steady(0.02)
        run.server.set_clock(0)
    run.steady(1)
    run.revoke()
    run.steady(0.7)


def _scenario(name, act, claim, fault, over):
    bounds = {"over-admission": over, "drought": 1000}
    return Scenario(name, act, claim, fault, with_clock, {"": bounds}, policies=("closed",), clock_moves=True)


ALL = (
    _scenario(
        "clock back an hour",
        _steps(-HOUR_S),
        "Nobody is locked out, and at most one burst more is admitted.",
        "the server's clock is set back an hour",
        BURST,
    ),
    _scenario(
        "clock on an hour and back",
        _steps(HOUR_S, 0),
        "At most one burst more is admitted each time.",
        "the server's clock is an hour ahead for 1 to 1.5 s",
        2 * BURST,
    ),
    _scenario(
        "clock flaps",
        _flap,
        "Time that comes twice is counted once.",
        f"the server's clock is up to {FLAP_S * 1000:g} ms behind or ahead, changed each 20 ms, for 2 s",
        int(RATE * 2 * FLAP_S),
    ),
)
