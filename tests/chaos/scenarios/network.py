"""A network that loses, cuts, delays and drips replies."""

from chaos.deployments import proxied
from chaos.run import Scenario

SCRIPTS = "EVALSHA EVAL"


def _faulty(name, **options):
    """An act in which the network does this to the replies of scripts, now and then."""

    def act(run):
        proxy = run.deployment.parts["proxy"]
        run.steady(run.between(1, 1.5))
        with run.fault(name):
            for _ in range(12):
                proxy.on(SCRIPTS, name, skip=run.random.randrange(20), times=1, **options)
                run.steady(run.between(0.1, 0.25))
            proxy.clear()
        run.steady(2)
        run.revoke()
        run.steady(0.7)

    return act


def _scenario(name, fault, words, **options):
    return Scenario(
        name,
        _faulty(fault, **options),
        "A check is carried out once; one without a reply is reported as unknown, and not sent again.",
        f"{words}, 12 times in 1.2 to 3 s",
        proxied,
        is_long=fault == "half",
    )


ALL = (
    _scenario("lost replies", "drop", "the reply to a check is lost, and all that comes after it on the connection"),
    _scenario("half replies", "half", "half of a reply comes, then nothing more"),
    _scenario("slow replies", "delay", "a reply comes 200 ms late, and holds up those behind it", seconds=0.2),
    _scenario("dripped replies", "drip", "a reply comes in single bytes, one each 20 ms", seconds=0.02),
    _scenario("reset connections", "reset", "a check is carried out, then its connection is reset"),
)
