"""What administrators who change things at the same moment may rely on."""

from helpers.interception import InterceptedCatalog, before_script
from helpers.replica import METHOD, STAGE

from ratelimit import Catalog, Ceilings, ConfigError, Conflict, Limiter, Throttle, UsagePlan

GOLD = UsagePlan("gold", Throttle(1, 50))


def raised(call, *args, **keywords):
    """The name of the error that a call ends with, None if it does not."""
    try:
        call(*args, **keywords)
    except ConfigError as error:
        return type(error).__name__


def a_ceiling_holds_between_administrators(server):
    """The last key that there is room for is made once, although both saw the room."""
    with server.client() as client, server.client() as other_client:
        one, other = (Catalog(each, ceilings=Ceilings(keys=2)) for each in (client, other_client))
        one.create_key("first")
        InterceptedCatalog(one, before_script(lambda: other.create_key("other"), number=1))
        assert raised(one.create_key, "one") == "ConfigError"
        assert [key.name for key in other.list_keys().items] == ["other", "first"]


def what_was_shown_is_what_is_replaced(server):
    """A plan is replaced as it was seen, or not at all, although somebody else changed it in the last moment."""
    with server.client() as client, server.client() as other_client:
        one, other = Catalog(client), Catalog(other_client)
        one.put_plan(GOLD)
        theirs = UsagePlan("gold", Throttle(2, 50))
        InterceptedCatalog(one, before_script(lambda: other.put_plan(theirs), number=1))
        assert raised(one.put_plan, UsagePlan("gold"), expected=GOLD) == Conflict.__name__
        assert other.plans() == [theirs]


def the_usage_of_a_plan_is_all_that_it_admitted(server, clock):
    """Whether the keys that used it are still in it or have left."""
    with server.client() as client, Limiter(client, clock=clock, deadline=5) as limiter:
        catalog = limiter.catalog
        catalog.put_plan(UsagePlan("gold", stages=[STAGE]))
        catalog.put_plan(UsagePlan("other"))
        keys = [catalog.create_key(plans=["gold"]) for _ in range(3)]
        for units, key in enumerate(keys, 1):
            assert limiter.check(key.value, STAGE, METHOD, units).allowed
        catalog.move_key(keys[0].id, "gold", "other")
        catalog.remove_key_from_plan(keys[1].id, "gold")
        usage = catalog.usage("gold", "2026-03-04", "2026-03-04")
        assert usage.items == {key.id: [(units, None)] for units, key in enumerate(keys, 1)}
