"""What administrators who change things at the same moment may rely on: as in `promises`, on a real server."""

from keyfiles import Watched, once

from ratelimit import Catalog, Ceilings, ConfigError, Conflict, Throttle, UsagePlan

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
        Watched(one, once(lambda: other.create_key("other"), at=1))
        assert raised(one.create_key, "one") == "ConfigError"
        assert [key.name for key in other.keys_page().items] == ["other", "first"]


def what_was_shown_is_what_is_replaced(server):
    """A plan is replaced as it was seen, or not at all, although somebody else changed it in the last moment."""
    with server.client() as client, server.client() as other_client:
        one, other = Catalog(client), Catalog(other_client)
        one.put_plan(GOLD)
        theirs = UsagePlan("gold", Throttle(2, 50))
        Watched(one, once(lambda: other.put_plan(theirs), at=1))
        assert raised(one.put_plan, UsagePlan("gold"), expected=GOLD) == Conflict.__name__
        assert other.plans() == [theirs]
